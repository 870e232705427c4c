"""Stored contexts served by vLLM: pages made here, and the KV connector that vLLM loads to place them in its cache.

`pages.to_pages` turns a context into pages, `files.write` stores them; `connector.HoldfastConnector` runs inside vLLM:

    --kv-transfer-config '{"kv_connector": "HoldfastConnector", "kv_connector_module_path": "holdfast.vllm",
                           "kv_role": "kv_both", "kv_connector_extra_config": {"folder": "pages"}}'
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "HoldfastConnector":
        raise AttributeError(f"module 'holdfast.vllm' has no attribute {name!r}; it has: HoldfastConnector")
    from holdfast.vllm.connector import HoldfastConnector

    return HoldfastConnector
