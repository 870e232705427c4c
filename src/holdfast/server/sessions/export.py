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

from holdfast.blocks.block import Kind
from holdfast.context import store as contexts
from holdfast.errors import BadContext, HoldfastError
from holdfast.model.load import Model
from holdfast.session.events import check_opening, checkpoint_of, hidden_of, named, replayed, turn_of
from holdfast.storage.store import Store

EVENTS = "events.json"
_ODD = (zipfile.BadZipFile, LookupError, ValueError, TypeError, AttributeError, RecursionError, NotImplementedError)
"""Errors of reading a file that is no exported session."""


def pack_session(store: Store, name: str) -> bytes:
    """Returns a session of a store as one file; the caller's key stays behind."""
    events = [{k: v for k, v in event.items() if k != "key"} for event in store.events(name)]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as file:
        file.writestr(EVENTS, json.dumps(events))
        for digest in sorted(named(events)):
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
            events = json.loads(file.read(EVENTS))
            _check(events, model)
            objects = {digest: file.read(f"objects/{digest}") for digest in sorted(named(events))}
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


def _size(inside: Sequence[zipfile.ZipInfo]) -> int:
    return sum(info.file_size for info in inside)


def _check(events: Sequence[Mapping[str, Any]], model: Model) -> None:
    """Raises BadContext, or one of the errors of a wrong type, if the session could not be resumed."""
    check_opening(events[0], model, "in the file")
    vocabulary, turns = model.hf.config.vocab_size, 0
    blocks: list[int] = []  # the turn of each
    for event in events[1:]:
        if event["kind"] == "turns":
            turns += len([turn_of(row) for row in event["turns"]])
            blocks += [row[0] for row in event["blocks"]]
            for turn, kind, ids in event["blocks"]:
                Kind(kind)
                if not (0 <= turn < turns and ids and all(type(i) is int and 0 <= i < vocabulary for i in ids)):
                    raise BadContext("the exported session holds tokens or turns that there are not")
        elif event["kind"] == "rewound":
            turns = min(turns, _check_count(event["turns"]))
            blocks = [turn for turn in blocks if turn < turns]
        elif event["kind"] == "pinned":
            _check_count(event["turn"])
        elif event["kind"] in ("compacted", "saved"):
            checkpoint = checkpoint_of(event)
            tail, count = _check_count(checkpoint.tail), _check_count(checkpoint.blocks)
            if not tail <= count <= len(blocks) or not _check_count(checkpoint.compactions) < len(events):
                raise BadContext("the exported session holds a memory of blocks that there are not")
        elif event["kind"] == "undone":
            _check_count(event["checkpoints"])
        else:
            raise BadContext(f"the exported session has an event {event['kind']!r} that this version does not know")


def _check_count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{str(value)[:40]!r} counts nothing")
    return value


def _check_objects(events: Sequence[Mapping[str, Any]], objects: Mapping[str, bytes], model: Model) -> None:
    for checkpoint in replayed(events, "in the file").checkpoints:
        context = contexts.from_bytes(objects[checkpoint.context], model, name="the exported session")
        hidden = hidden_of(objects[checkpoint.hidden])
        if hidden.ndim != 2 or hidden.shape[1] != model.family.d_model or not hidden.isfinite().all():
            raise BadContext("the exported session holds hidden states that are not this model's; export it again")
        contexts.to_bytes(context, model)  # refuses what is not finite
