"""Sessions over HTTP: OpenAI- and Anthropic-compatible, for agents that know nothing of Holdfast."""
