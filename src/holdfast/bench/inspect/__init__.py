"""Holdfast under inspect-ai: the agent as a solver, models, the sandbox, and the eight tasks."""
