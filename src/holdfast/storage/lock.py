"""Locks on open files, of the system at hand. They last until the last descriptor of the opened file is closed."""

from __future__ import annotations

import os
import sys

if sys.platform == "win32":
    import msvcrt

    _PLACE = 1 << 30  # where locks forbid reading, one byte far behind the end hinders nobody

    def lock(descriptor: int, wait: bool) -> None:
        """Locks an open file for this holder alone. Raises OSError if another has it and nobody waits."""
        os.lseek(descriptor, _PLACE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)

    def unlock(descriptor: int) -> None:
        """Gives the lock back."""
        os.lseek(descriptor, _PLACE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def lock(descriptor: int, wait: bool) -> None:
        """Locks an open file for this holder alone. Raises OSError if another has it and nobody waits."""
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))

    def unlock(descriptor: int) -> None:
        """Gives the lock back."""
        fcntl.flock(descriptor, fcntl.LOCK_UN)
