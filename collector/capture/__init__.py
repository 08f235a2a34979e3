"""Captures of exports: read as datagrams, and replayed."""
