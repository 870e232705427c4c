"""The sessions behind the wires: the host, which session a request continues, and which are in memory."""
