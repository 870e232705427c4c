"""A session as one file, to be carried to another machine: its events and every object that they name.

A zip archive that stores without compression, so that a file is never larger in memory than it is on disk.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

from holdfast.context import holdfast_file
from holdfast.errors import BadContext, HoldfastError
from holdfast.model.load import Model
from holdfast.server.sessions.import_validation import check_events, decode_events
from holdfast.session.checkpoints import decode_hidden
from holdfast.session.events import find_referenced_objects, replay_log
from holdfast.storage.store import Store

EVENTS = "events.json"
SEAL = "events.sha256"
"""The digest of the events, so that one changed byte is seen. Files of version 0.4 have none."""
_ODD = (zipfile.BadZipFile, LookupError, ValueError, TypeError, AttributeError, RecursionError, NotImplementedError)
"""Errors of reading a file that is no exported session."""


def pack_session(store: Store, name: str) -> bytes:
    """Returns a session of a store as one file; the caller's key stays behind."""
    events = [{k: v for k, v in event.items() if k != "key"} for event in store.events(name)]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as file:
        written = json.dumps(events).encode()
        file.writestr(EVENTS, written)
        file.writestr(SEAL, _seal(written))
        for digest in sorted(find_referenced_objects(events)):
            file.writestr(f"objects/{digest}", store.get(digest))
    return out.getvalue()


def unpack_session(store: Store, data: bytes, key: str, model: Model) -> str:
    """Writes the file of `pack_session` into a store; returns the new name of the session.

    Raises BadContext for anything else, for another model's session, and for objects that are not what they are called.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            inside = file.infolist()
            if any(info.compress_type != zipfile.ZIP_STORED for info in inside) or _size(inside) > len(data):
                raise BadContext("an exported session is stored without compression; export it again")
            written = file.read(EVENTS)
            events = decode_events(written)
            check_events(events, model)
            digests = sorted(find_referenced_objects(events))
            _check_members([info.filename for info in inside], digests)
            if SEAL in file.namelist() and file.read(SEAL) != _seal(written):
                raise BadContext("the events of the exported session were changed; export it again")
            objects = {digest: file.read(f"objects/{digest}") for digest in digests}
    except _ODD as error:
        raise BadContext(f"this is no exported session ({error}); export it again with GET …/export") from error
    for digest, content in objects.items():
        if hashlib.sha256(content).hexdigest() != digest:
            raise BadContext(f"object {digest[:12]} of the exported session is damaged; export it again")
    _check_objects(events, objects, model)
    name = uuid4().hex
    for content in objects.values():
        store.put(content)
    try:
        for at, event in enumerate(events):
            store.append(name, at, {**event, "key": key} if at == 0 else event)
    except Exception:
        with suppress(HoldfastError):
            store.drop(name)
        raise
    return name


def _seal(written: bytes) -> bytes:
    return hashlib.sha256(written).hexdigest().encode()


def _check_members(names: Sequence[str], digests: Sequence[str]) -> None:
    """Raises BadContext for a member that stands twice, and for one that no export writes."""
    expected = {EVENTS, SEAL, *(f"objects/{digest}" for digest in digests)}
    if len(set(names)) < len(names) or not set(names) <= expected:
        raise BadContext("the exported session holds files that no export writes; export it again")


def _size(inside: Sequence[zipfile.ZipInfo]) -> int:
    return sum(info.file_size for info in inside)


def _check_objects(events: Sequence[Mapping[str, Any]], objects: Mapping[str, bytes], model: Model) -> None:
    past = replay_log(events, "in the file")
    for checkpoint in past.checkpoints:
        context = holdfast_file.from_bytes(objects[checkpoint.context], model, name="the exported session")
        hidden = decode_hidden(objects[checkpoint.hidden])
        tail = sum(map(len, past.blocks[checkpoint.tail : checkpoint.blocks]))
        right = hidden.ndim == 2 and hidden.shape[1] == model.family.d_model and len(hidden) >= tail
        if not right or not hidden.isfinite().all():
            raise BadContext("the exported session holds hidden states that are not its own; export it again")
        holdfast_file.to_bytes(context, model)  # refuses what is not finite
