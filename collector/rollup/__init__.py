"""Sums stored rows per window of 10 s and VM pair, and stores the sums."""
