"""Benchmarks: `python -m bench` measures this machine; bench/results/ has the latest saved results."""
