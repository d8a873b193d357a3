"""The routes by which an administrator brings a model into memory before it is needed, or takes it out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from atelier.api.errors import ERRORS
from atelier.api.services import UsedPipeline
from atelier.core.status import Holders

router = APIRouter(tags=["Atelier"])

ModelId = Annotated[str, Path(description="Id of a model that this server serves.")]


class ModelMemory(BaseModel):
    """Where a model is in memory. Its text encoders, its UNet and its VAE are in replicas of three kinds."""

    model: str = Field(description="Id of the model.")
    replicas: int = Field(description="Number of replicas that can have a part of the model in memory.")
    holding: int = Field(description="Number of them that have it in memory now.")


@router.post("/v1/models/{model_id:path}/load", responses=ERRORS)
async def load_model(model_id: ModelId, pipeline: UsedPipeline) -> ModelMemory:
    """Bring a model into the memory of all replicas; the models used longest ago leave where there is no room."""
    model = pipeline.catalogue.model(model_id).id
    return _model_memory(model, await pipeline.stages.load_model(model))


@router.post("/v1/models/{model_id:path}/unload", responses=ERRORS)
async def unload_model(model_id: ModelId, pipeline: UsedPipeline) -> ModelMemory:
    """Take a model out of the memory of all replicas that do not use it now; the next request loads it again."""
    model = pipeline.catalogue.model(model_id).id
    return _model_memory(model, await pipeline.stages.unload_model(model))


def _model_memory(model: str, holders: Holders) -> ModelMemory:
    return ModelMemory(model=model, replicas=holders.num_replicas, holding=holders.num_holders)
