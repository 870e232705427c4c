"""One file for each wire."""
