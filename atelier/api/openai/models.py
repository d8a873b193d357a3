"""OpenAI's models routes."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from starlette.convertors import PathConvertor, register_url_convertor

from atelier.api.errors import ERRORS, ErrorResponse
from atelier.api.openai.schemas import Model, ModelList
from atelier.api.services import UsedPipeline
from atelier.catalogue.entries import ModelEntry
from atelier.core.errors import Forbidden


class _ModelId(PathConvertor):
    """Any path but those of the routes that load and unload models."""

    regex = r".*(?<!/load)(?<!/unload)"


register_url_convertor("model", _ModelId())

router = APIRouter(prefix="/v1", tags=["OpenAI"])


@router.get("/models")
async def list_models(pipeline: UsedPipeline) -> ModelList:
    """The models that this server serves."""
    entries = await asyncio.to_thread(pipeline.catalogue.all_models)
    return ModelList(data=[_model(entry) for entry in entries])


@router.get("/models/{model_id:model}", responses=ERRORS)
async def get_model(model_id: str, pipeline: UsedPipeline) -> Model:
    """Return one model that this server serves."""
    return _model(await asyncio.to_thread(pipeline.catalogue.model, model_id))


@router.delete("/models/{model_id:model}", responses=ERRORS, status_code=403)
async def delete_model(model_id: str, pipeline: UsedPipeline) -> ErrorResponse:
    """Always refused: models belong to the server's catalogue."""
    await asyncio.to_thread(pipeline.catalogue.model, model_id)
    raise Forbidden(f"{model_id} is part of this server's catalogue and cannot be deleted by a client.")


def _model(entry: ModelEntry) -> Model:
    return Model(id=entry.id, created=entry.created_unix_s, owned_by=entry.owned_by)
