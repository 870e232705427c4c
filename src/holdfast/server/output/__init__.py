"""From generated tokens to what a wire sends: text, reasoning and tool calls."""
