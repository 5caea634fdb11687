"""Benchmarks: what the methods cost on this machine, compared with their floor and with other libraries."""
