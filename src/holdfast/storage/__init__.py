"""Where bytes live: objects by their content, logs of events, and the file systems below them."""
