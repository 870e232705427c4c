"""Holdfast inside the libraries that agents are built with; each file needs its library and nothing else."""
