"""Models by name: an endpoint, a model of this process, or a script."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from holdfast import config
from holdfast.agent.models import AgentModel, ScriptedModel
from holdfast.cost.prices import Prices, route_prices
from holdfast.engine.routing import Route, Task, open_route, read_routes
from holdfast.errors import BadInput, BadOption, Failed
from holdfast.transcript.turn import Role, ToolCall, Turn

KEYS = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}
"""The environment variables of the providers' keys."""


@dataclass(frozen=True)
class ModelOptions:
    """Further settings of a model."""

    base_url: str = ""
    key_env: str = ""
    """The environment variable that holds the key; empty for the provider's own where there is no `base_url`."""
    config: Path | None = None
    dtype: str = "auto"
    device: str = "cpu"


def open_model(name: str = "", options: ModelOptions | None = None) -> AgentModel:
    """Returns a model: `openai:NAME`, `anthropic:NAME`, `scripted:FILE`, or a model of this process by its name.

    Without a name, the row `agent` of holdfast.toml. Raises BadOption for what cannot be opened.
    """
    options = options or ModelOptions()
    kind, colon, rest = name.partition(":")
    if not name:
        return _open_endpoint(_find_route(options.config), options)
    if colon and kind in KEYS:
        key_env = options.key_env or ("" if options.base_url else KEYS[kind])
        route = Route(kind=kind, model=rest, base_url=options.base_url, key_env=key_env)  # type: ignore[arg-type]
        return _open_endpoint(route, options)
    if colon and kind == "scripted":
        return ScriptedModel(read_script(Path(rest)))
    return _open_local(name, options)


def _find_route(file: Path | None) -> Route:
    route = read_routes(file).get(Task.AGENT)
    if route is None:
        raise BadOption(
            "no model is named: give --model (openai:NAME, anthropic:NAME, or a model of this process), or write "
            f"[routes.agent] into {config.describe_config_places()}"
        )
    return route


def _open_endpoint(route: Route, options: ModelOptions) -> AgentModel:
    if route.kind == "local":
        return _open_local(route.model, options)
    from holdfast.agent.endpoints import EndpointModel
    from holdfast.engine.remote import Remote

    remote, prices = open_route(route).chat, find_prices(route)
    assert isinstance(remote, Remote)
    window = route.max_input or (prices.window if prices else None)
    return EndpointModel(remote, window, prices)


def find_prices(route: Route) -> Prices | None:
    """Returns the prices of a route; None where nobody knows them, and then money is no limit."""
    try:
        return route_prices(route)
    except (BadOption, Failed):
        return None


def _open_local(name: str, options: ModelOptions) -> AgentModel:
    from holdfast.agent.local import LocalModel
    from holdfast.compaction.compact import load

    return LocalModel(load(name, dtype=options.dtype, device=options.device))


def is_local(name: str) -> bool:
    """Returns True for the name of a model of this process."""
    kind, colon, _ = name.partition(":")
    return bool(name) and not (colon and kind in (*KEYS, "scripted"))


def read_script(path: Path) -> list[Turn]:
    """Reads a scripted model: a JSON list of texts, or of objects with `text` and `calls` of `name` and `arguments`.

    Raises BadInput naming the answer.
    """
    try:
        rows = json.loads(path.read_text("utf-8"))
        return [_read_answer(row, f"script_{at}_") for at, row in enumerate(rows)]
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInput(f"{path}: is no script, a JSON list of answers: {error!r}") from None


def _read_answer(row: str | dict[str, Any], prefix: str) -> Turn:
    if isinstance(row, str):
        return Turn(Role.ASSISTANT, row)
    calls: Sequence[dict[str, Any]] = row.get("calls", ())
    made = [ToolCall(f"{prefix}{at}", call["name"], json.dumps(call["arguments"])) for at, call in enumerate(calls)]
    return replace(Turn(Role.ASSISTANT, str(row.get("text", ""))), calls=tuple(made))
