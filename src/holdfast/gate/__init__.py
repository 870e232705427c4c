"""The gates: lost facts are measured, put back, or reported. `latent` is for KV slots, `text` for messages."""
