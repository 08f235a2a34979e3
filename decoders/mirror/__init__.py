"""Mirrored packets to connections: who sent how much to whom, and what their TCP shows of the network."""
