"""Spoiled inputs for benchmarks/fuzz.py."""
