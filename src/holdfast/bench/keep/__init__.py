"""A benchmark for small models: rules are agreed, long work follows, one small program shows which rules were kept."""
