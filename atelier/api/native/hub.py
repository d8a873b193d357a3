"""The routes of the model hub: searched, downloaded from by jobs, and what was downloaded, listed and removed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from atelier.api.body import json_body, json_fields
from atelier.api.errors import ERRORS, ErrorResponse
from atelier.api.idempotency import GivenKey
from atelier.api.native.hub_schemas import HubModel, HubModelFile, HubModelList, InstalledList, Removed
from atelier.api.native.job_answers import job_response
from atelier.api.native.job_schemas import InstalledModel, JobResponse
from atelier.api.services import UsedHub, UsedJobs, UsedPipeline, UsedUrls
from atelier.catalogue.installed import Installed
from atelier.core.params import DownloadParams, RepositoryId, RepositoryKind, parse
from atelier.core.params.parsing import MAX_NAME_CHARS
from atelier.hub.hub import Hub, Offer
from atelier.jobs.service import Draft

router = APIRouter(tags=["Atelier"])

_MAX_FOUND = 50
_HUB_ERRORS: dict[int | str, dict[str, Any]] = {
    **ERRORS,
    **{status: {"model": ErrorResponse} for status in (403, 502, 507)},
}


@router.get("/v1/hub/search", responses=_HUB_ERRORS)
async def search_hub(
    hub: UsedHub,
    q: Annotated[str, Query(max_length=MAX_NAME_CHARS, description="Words in the id of a repository.")] = "",
    kind: Annotated[RepositoryKind | None, Query(description="What a repository must hold.")] = None,
    base: Annotated[RepositoryId | None, Query(description="Id of the model that it must be made from.")] = None,
    limit: Annotated[int, Query(ge=1, le=_MAX_FOUND, description="Largest number of repositories.")] = 10,
) -> HubModelList:
    """Search the model hub, the most downloaded repositories first."""
    return found_models(await hub.search(q, kind, base, limit=limit))


@router.post(
    "/v1/hub/download",
    status_code=202,
    responses=_HUB_ERRORS,
    openapi_extra=json_body(DownloadParams),
    response_model_exclude_none=True,
)
async def download_model(
    request: Request,
    response: Response,
    hub: UsedHub,
    service: UsedJobs,
    pipeline: UsedPipeline,
    url_of: UsedUrls,
    idempotency_key: GivenKey,
) -> JobResponse:
    """Hand in a job that downloads a model or LoRA, after which requests may name it.

    Its licence must be accepted by its id, which the error of a request without `accept_licence` names.
    """
    fields = await json_fields(request)
    draft = await download_draft(hub, parse(DownloadParams, fields), idempotency_key)
    [job] = await service.submit(pipeline, [draft])
    answer = await job_response(job, service, url_of)
    response.headers["location"] = answer.status_url
    return answer


@router.get("/v1/hub/installed", responses=_HUB_ERRORS, response_model_exclude_none=True)
async def list_installed_models(hub: UsedHub) -> InstalledList:
    """Return the models and LoRAs that were downloaded from the model hub."""
    return installed_models(await hub.installed())


@router.delete("/v1/hub/installed/{id:path}", responses=_HUB_ERRORS)
async def remove_model(id: str, hub: UsedHub) -> Removed:
    """Remove a model or LoRA that was downloaded, with its files."""
    await hub.remove(id)
    return Removed(id=id)


async def download_draft(hub: Hub, params: DownloadParams, idempotency_key: str | None = None) -> Draft:
    """Return the job of a download with its revision pinned. Raises what `Hub.plan` raises."""
    sent = json.dumps(params.model_dump(), sort_keys=True)
    return Draft(
        operation="download",
        params=await hub.plan(params),
        idempotency_key=idempotency_key,
        fingerprint=hashlib.sha256(sent.encode()).hexdigest(),
    )


def found_models(offers: Iterable[Offer]) -> HubModelList:
    """Convert repositories that were found to their response model."""
    return HubModelList(data=[_described(offer) for offer in offers])


def installed_models(installed: Iterable[Installed]) -> InstalledList:
    """Convert what was downloaded to its response model."""
    return InstalledList(data=[InstalledModel.model_validate(one.model_dump()) for one in installed])


def _described(offer: Offer) -> HubModel:
    found = offer.repository
    return HubModel(
        name=found.id,
        kind=found.kind,
        base_model=found.base,
        licence=found.licence.id,
        licence_link=found.licence.link,
        revision=found.revision,
        downloads=found.downloads,
        likes=found.likes,
        is_gated=found.is_gated,
        has_safetensors=bool(found.safetensors),
        is_installed=offer.is_installed,
        can_be_installed=offer.choice is not None,
        reason=offer.reason,
        num_bytes=None if offer.choice is None else offer.choice.num_bytes,
        files=[HubModelFile(name=file.name, num_bytes=file.num_bytes) for file in found.safetensors],
    )
