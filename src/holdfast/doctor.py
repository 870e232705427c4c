"""Looks a session over."""
