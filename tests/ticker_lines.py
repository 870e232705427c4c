"""Lines that the ticker may write to stderr at any time, on a machine that is busy."""

from holdfast.cli.ticker import MARK


def without_ticker(text: str) -> str:
    """Returns what a command itself wrote."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(MARK))
