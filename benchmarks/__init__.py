"""Benchmarks: what our methods cost beside their floor and beside other libraries, on this machine."""
