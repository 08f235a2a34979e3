"""Captures of exports: read as datagrams, and sent again."""
