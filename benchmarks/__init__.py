"""Benchmarks of jaxgmm against its peers: ``python -m benchmarks``, one file per question."""
