"""The error of a request that is turned down, with its HTTP status."""

from __future__ import annotations

from holdfast.errors import BadInput


class RequestError(BadInput):
    """A request that is turned down at the door, with its HTTP status and, for OpenAI, the field and a code."""

    def __init__(
        self,
        message: str,
        param: str | None = None,
        *,
        status: int = 400,
        code: str | None = None,
        retry_after: int = 1,
        close: bool = False,
    ) -> None:
        """Takes `retry_after` in seconds; `close` ends the connection behind the answer."""
        self.status, self.param, self.code, self.retry_after, self.close = status, param, code, retry_after, close
        super().__init__(message)
