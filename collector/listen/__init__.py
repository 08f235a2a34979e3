"""The first stage: sockets in, batches of datagrams out."""
