"""A queue of tasks for agents: one event log, leases, dependencies, executors.

Start with `events.py`.
"""
