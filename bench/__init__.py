"""Benchmarks: `python -m bench` prints what this machine does; bench/results/ has the latest that were saved."""
