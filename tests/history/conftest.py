import json
from dataclasses import replace

import pytest
from chat_files import METHODS

from holdfast.methods import registry
from holdfast.transcript import write


def _write(document, held):
    values = []
    for piece in held.pieces:
        turn = piece.turn
        if piece.at is not None:
            value = document.entries[piece.at].value
            values.append({**value, "content": turn.text} if piece.made else value)
        else:
            values.append({"role": turn.role.value, "content": turn.text})
    if document.lines:
        return "".join(json.dumps(v) + "\n" for v in values)
    return json.dumps({**document.value, "messages": values}, indent=1)


@pytest.fixture(autouse=True)
def methods(monkeypatch):
    monkeypatch.setattr(registry, "TEXT", {**registry.TEXT, **METHODS})
    if not write.FORMATS[0].write:
        monkeypatch.setattr(write, "FORMATS", (replace(write.FORMATS[0], write=_write), *write.FORMATS[1:]))
