"""The routing table of holdfast.toml: the model for each task, which only the user's own file chooses.

[routes.compactor]
kind = "openai"                       # the wire: openai, anthropic, or local (a model of this process)
model = "a-fast-model"
base_url = "https://api.example.com/v1"
key_env = "EXAMPLE_API_KEY"           # the environment variable that holds the key; never the key itself
price_in = 0.25                       # dollars per million tokens; without it the price library is asked
price_out = 1.0
max_input = 120000                    # tokens
max_output = 8000
timeout = 60                          # seconds, retries included
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from holdfast import config
from holdfast._moved import find_name
from holdfast.engine.chat import Chat, ChatAnswer
from holdfast.errors import BadInput, BadOption

Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Tokens = Annotated[int, Field(ge=1)]


class Task(StrEnum):
    """A task that a model can be chosen for."""

    PLANNER = "planner"
    COMPACTOR = "compactor"
    VALIDATOR = "validator"
    AGENT = "agent"


class Route(BaseModel):
    """One row."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: Literal["openai", "anthropic", "local"]
    model: str = Field(min_length=1)
    base_url: str = Field(default="", pattern=r"^(https?://\S+)?$")
    """Empty for the provider's own."""
    key_env: str = Field(default="", pattern=r"^([A-Za-z_]\w*)?$")
    """Name of the environment variable that holds the key; empty where none is needed."""
    price_in: Price | None = None
    """Dollars per million tokens read; None where the price library is to be asked."""
    price_out: Price | None = None
    max_input: Tokens | None = None
    max_output: Tokens | None = None
    timeout: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """Seconds that a call may take, retries included."""

    @model_validator(mode="after")
    def _both_prices(self) -> Self:
        if (self.price_in is None) != (self.price_out is None):
            raise ValueError("give both price_in and price_out, or neither")
        return self


class _File(BaseModel):
    model_config = ConfigDict(extra="ignore")

    routes: dict[Task, Route] = {}


@dataclass(frozen=True)
class RoutedChat:
    """A model with the limits of its row."""

    route: Route
    chat: Chat

    @property
    def name(self) -> str:
        return self.route.model

    @property
    def max_input(self) -> int | None:
        return self.route.max_input or getattr(self.chat, "max_input", None)

    def __call__(self, system: str, prompt: str, max_tokens: int, timeout: float) -> ChatAnswer:
        """Asks the model; the row's time-out holds if it is the shorter one."""
        return self.chat(system, prompt, max_tokens, min(timeout, self.route.timeout))

    def __reduce__(self) -> tuple[object, ...]:
        """Returns the row alone: on another machine the key is read from the environment there, and never sent."""
        return open_route, (self.route,)


def read_routes(path: Path | None = None) -> dict[Task, Route]:
    """Reads the routing table of a file, by default the user's (`config.config_file`). Raises BadInput
    naming the key.
    """
    path = path or config.config_file()
    if path is None:
        return {}
    try:
        return _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))).routes
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"{path}: cannot be read as TOML: {error}") from error
    except ValidationError as error:
        faults = "; ".join(f"{_key(fault['loc'])}: {fault['msg']}" for fault in error.errors()[:3])
        raise BadInput(f"{path}: {faults}") from error


def _key(where: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in where if part != "[key]")


def open_route(route: Route, key: str = "") -> RoutedChat:
    """Returns a row's model, ready to be called. Raises BadOption if the variable of its key is not set."""
    if route.kind == "local":
        from holdfast.engine.local_chat import LocalChat

        return RoutedChat(route, LocalChat(route.model, max_output=route.max_output))
    from holdfast.engine.remote import CHATS

    key = key or (config.read_secret(route.key_env) if route.key_env else "")
    if route.key_env and not key:
        raise BadOption(f"{route.model} needs a key: set the environment variable {route.key_env}")
    remote = CHATS[route.kind](route.model, route.base_url, key, route.max_input, route.max_output)
    return RoutedChat(route, remote)


def chat_for_task(task: Task, path: Path | None = None) -> RoutedChat | None:
    """Returns the model for a task, or None if the table has no row for it."""
    route = read_routes(path).get(task)
    return open_route(route) if route else None


if not TYPE_CHECKING:  # so that a misspelt name is still an error to mypy

    def __getattr__(name: str) -> object:
        return find_name("engine.routing", name)
