"""Latent compaction of a whole session: plan, partition, compact, recompact, sub-agents, calibration."""
