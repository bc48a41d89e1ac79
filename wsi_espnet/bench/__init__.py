"""Benchmarks on composed slides with known truth: `python -m wsi_espnet.bench`."""
