"""The facts of a session: literals, passages and prohibitions, where they stand, and what became of them."""
