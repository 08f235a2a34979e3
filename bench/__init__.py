"""Benchmarks: `python -m bench` prints what this machine does; figures with a date go to bench/results/."""
