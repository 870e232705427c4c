"""The models that there are: the one that the server was started with."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from holdfast.errors import Missing

router = APIRouter(tags=["OpenAI"])


class Model(BaseModel):
    """A model as OpenAI's clients list it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "holdfast"


class Models(BaseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[Model]


@router.get("/v1/models")
async def models(request: Request) -> Models:
    """Lists the one model."""
    return Models(data=[_own(request)])


@router.get("/v1/models/{model:path}")
async def model(model: str, request: Request) -> Model:
    """Returns the model of that name."""
    own = _own(request)
    if model != own.id:
        raise Missing(f"there is no model {model[:80]!r} here; there is {own.id!r}, and it answers to any name")
    return own


def _own(request: Request) -> Model:
    state: Any = request.app.state
    return Model(id=state.host.model, created=state.started)
