"""Mementos: a long line of work in blocks, each with a dense note, as data, training and measurement."""
