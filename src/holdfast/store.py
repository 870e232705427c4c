"""Objects by their content and logs of events, on any fsspec URL. Safe under concurrent writers."""
