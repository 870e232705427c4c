"""Every error that Holdfast raises on purpose, as one tree.

HoldfastError
├── BadInput            the caller gave something that cannot be used   (exit code 2)
│   ├── BadTranscript       a file or line that is not a session we can read
│   │   └── NotASession         a file of another kind
│   ├── BadOption           an unknown or ill-typed method option, name or ratio
│   ├── BadContext          a .holdfast file that is damaged, foreign or hostile
│   ├── TooLarge            more than the model or the memory can ever hold
│   │   └── PromptTooLong       a history of more tokens than the model reads
│   └── Missing             a session, a turn or a file of the store that there is not
├── UnsupportedModel    the model has a layer that a method cannot serve (exit code 2)
├── Failed              the work itself failed: no model, no memory      (exit code 1)
│   ├── Busy                no room now; the same request may succeed later
│   └── Conflict            somebody else wrote first; read again and decide anew
└── Lost                a strict gate found facts that would be lost     (exit code 3)

A message says the rule, the value that broke it, and what to do next.
"""

from __future__ import annotations


class HoldfastError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class BadInput(HoldfastError):
    """The caller's input cannot be used."""

    exit_code = 2


class BadTranscript(BadInput):
    """A session file that cannot be read; `line` is 1-based where the format has lines."""

    def __init__(self, message: str, *, path: str = "", line: int | None = None) -> None:
        self.path, self.line = path, line
        where = path + (f":{line}" if line else "")
        super().__init__(f"{where}: {message}" if where else message)


class NotASession(BadTranscript):
    """A file of another kind: binary, or text in no format of a session."""


class BadOption(BadInput):
    """An option, a name or a ratio outside what is allowed."""


class BadContext(BadInput):
    """A stored context that is damaged, made for another model, or hostile."""


class TooLarge(BadInput):
    """More than the model reads, or than memory will ever hold."""


class PromptTooLong(TooLarge):
    """A history of `tokens` tokens for a model that reads `most`: each wire says it in its provider's own words."""

    def __init__(self, message: str, *, tokens: int, most: int) -> None:
        self.tokens, self.most = max(tokens, most + 1), most
        super().__init__(message)


class Missing(BadInput):
    """A session, a turn or an object of the store that does not exist, or not for this caller."""


class UnsupportedModel(HoldfastError):
    """A model that cannot be served; the message names the layer and the reason."""

    exit_code = 2


class Failed(HoldfastError):
    """The work failed for a reason outside the input."""


class Busy(Failed):
    """There is no room or no turn free now; the same request may succeed later."""


class Conflict(Failed):
    """Another writer was first; what was to be written would have overwritten it."""


class Lost(HoldfastError):
    """A strict gate found facts that the compact memory no longer holds; `losses` lists them."""

    exit_code = 3

    def __init__(self, message: str, losses: list[dict[str, object]]) -> None:
        self.losses = losses
        super().__init__(message)
