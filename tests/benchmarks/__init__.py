"""Benchmarks of the service, a ceiling and its peers on one machine and in one run; README.md explains the results."""
