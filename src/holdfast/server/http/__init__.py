"""The HTTP application around a host: limits, errors, streams and the endpoints that belong to no wire."""
