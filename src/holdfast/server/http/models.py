"""The models that there are: the one that the server was started with, in OpenAI's fields and in Anthropic's."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from holdfast.errors import Missing

router = APIRouter(tags=["OpenAI"])


class Model(BaseModel):
    """A model as clients of either provider list it."""

    id: str
    object: Literal["model"] = "model"
    type: Literal["model"] = "model"
    created: int
    created_at: str
    owned_by: str = "holdfast"
    display_name: str
    context_length: int = Field(description="Tokens that the model reads; a session may be longer, compacted.")
    max_model_len: int = Field(description="The same, as other servers of open models call it.")
    max_input_tokens: int = Field(description="The same, as Anthropic calls it.")
    max_tokens: int = Field(description="Most tokens of one answer.")


class Models(BaseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[Model]
    has_more: bool = False
    first_id: str
    last_id: str


@router.get("/v1/models")
async def models(request: Request) -> Models:
    """Lists the one model."""
    own = _own(request)
    return Models(data=[own], first_id=own.id, last_id=own.id)


@router.get("/v1/models/{model:path}")
async def model(model: str, request: Request) -> Model:
    """Returns the model of that name."""
    own = _own(request)
    if model != own.id:
        raise Missing(f"there is no model {model[:80]!r} here; there is {own.id!r}, and it answers to any name")
    return own


def _own(request: Request) -> Model:
    state: Any = request.app.state
    name, window = state.host.model, state.host.window
    return Model(
        id=name,
        created=state.started,
        created_at=datetime.fromtimestamp(state.started, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        display_name=name,
        context_length=window,
        max_model_len=window,
        max_input_tokens=window,
        max_tokens=min(window, state.settings.max_tokens),
    )
