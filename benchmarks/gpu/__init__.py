"""Checks and timings on a machine with one GPU: `python -m benchmarks.gpu` (`make gpu-check`), within five minutes."""
