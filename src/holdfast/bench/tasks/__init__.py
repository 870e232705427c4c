"""Eight small tasks that build one program, and the checks that run what was built. One folder a task."""
