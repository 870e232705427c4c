"""Two files change names in one step, so that whatever stood there at that moment is in hand."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import sys
from pathlib import Path

_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
_UNKNOWN = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a file system answers that cannot do it."""


def swap(one: Path, other: Path) -> None:
    """Exchanges the names of two files. If the system cannot do it in one step, `other` gets a second name first, so
    that what is written to it meanwhile is not lost. Raises OSError.
    """
    if not _exchange(one, other):
        aside = one.with_name(f".holdfast-{secrets.token_hex(8)}.tmp")
        os.link(other, aside, follow_symlinks=False)
        one.replace(other)
        aside.replace(one)


def _exchange(one: Path, other: Path) -> bool:
    if sys.platform != "linux":
        return False
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNKNOWN:
        return False
    raise OSError(number, os.strerror(number), str(other))
