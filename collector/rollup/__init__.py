"""Sums of VM pairs per window of 10 s, made in the process from the batches that were stored."""
