"""Benchmarks whose judge is the program that was built: `tasks/` for whole agents, `keep/` for small models."""
