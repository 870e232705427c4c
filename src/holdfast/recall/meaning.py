"""Similarity of meaning by a sentence model, each text read once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import Any

_MOST = 20_000  # texts whose vectors are held, 1.5 kB each; the one used longest ago goes first


class Meaning:
    """Scores texts by the cosine of their sentence embeddings to the query's; any thread may call.

    Raises Failed at the first call if the model's package is not installed.
    """

    def __init__(self) -> None:
        self._vectors: OrderedDict[str, Any] = OrderedDict()
        self._lock = Lock()

    def __call__(self, query: str, texts: Sequence[str]) -> list[float]:
        """Returns a score for each text, 1 for the same meaning."""
        import torch

        from holdfast.methods.text.similarity import embed

        asked = [query, *texts]
        with self._lock:
            unknown = [text for text in dict.fromkeys(asked) if text not in self._vectors]
            self._vectors.update(zip(unknown, embed(unknown), strict=True))
            vectors = torch.stack([self._vectors[text] for text in asked])
            for text in asked:
                self._vectors.move_to_end(text)
            while len(self._vectors) > _MOST:
                self._vectors.popitem(last=False)
        return [float(score) for score in vectors[1:] @ vectors[0]]
