import pytest

from file_log.chat_files import METHODS
from holdfast.methods import registry


@pytest.fixture(autouse=True)
def methods(monkeypatch):
    monkeypatch.setattr(registry, "TEXT", {**registry.TEXT, **METHODS})
