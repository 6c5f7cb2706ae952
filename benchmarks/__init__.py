"""Benchmarks: they call the same functions as the commands."""
