"""Measurements, run one at a time: `python -m benchmarks.NAME [--json]`."""
