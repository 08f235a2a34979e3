"""Datagrams of somebody who wants harm: what they may cost, and what they must not cost others."""
