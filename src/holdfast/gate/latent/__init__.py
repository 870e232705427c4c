"""The gate of latent compaction: measures what the compact memory lost, and repairs it."""
