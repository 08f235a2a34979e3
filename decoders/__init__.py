"""Bytes to column batches: sFlow v5, NetFlow v1/v5/v7/v9 and IPFIX.  No sockets, clocks, logs or settings here."""
