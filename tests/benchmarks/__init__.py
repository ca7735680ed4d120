"""Benchmarks: the service beside a ceiling and its peers, on one machine and in one run. README.md says how to read them."""
