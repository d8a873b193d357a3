"""The model hub as the server uses it: searched, downloaded from, and what was downloaded, listed and removed.

Every call of the hub runs in a thread with a time limit. Repositories are named by their id; the address is always
that of the configured hub. A download may run in several processes at once: each file is downloaded by one of them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from json import JSONDecodeError
from pathlib import Path
from typing import TypeVar

from huggingface_hub import HfApi, constants, get_session
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status
from pydantic import TypeAdapter, ValidationError

from atelier.catalogue.entries import SDXL_REPOSITORY, SDXL_REVISION
from atelier.catalogue.installed import Installed, list_installed
from atelier.catalogue.storage import Storage
from atelier.core.errors import HubUnavailable, LicenceNotAccepted, NotFound, UnsupportedValue
from atelier.core.jobs import Progress
from atelier.core.params.download import DownloadParams, RepositoryId, RepositoryKind
from atelier.hub.checkpoint import check_checkpoint
from atelier.hub.choice import Choice, chosen, configs_of
from atelier.hub.download import Meter, check_space, download
from atelier.hub.failures import hub_errors
from atelier.hub.install import install, uninstall
from atelier.hub.repository import BASE_TAG, TAGS, Repository, repository_of
from atelier.hub.transfer import Source

#: Number of threads that ask the hub, and that download. Downloads have their own: they take hours.
_NUM_ASKING, _NUM_DOWNLOADING = 8, 4
#: Seconds in which the hub must answer a question.
TIMEOUT_S = 10.0
#: Seconds between two looks at how far a download is.
_REPORT_S = 0.5

_REPOSITORY_ID = TypeAdapter[str](RepositoryId)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Offer:
    """A repository that was found, and what would be downloaded of it."""

    repository: Repository
    #: None if it cannot be used, for the `reason`.
    choice: Choice | None
    reason: str | None
    is_installed: bool


class Hub:
    """The model hub, and what was downloaded from it. Errors are those of `hub_errors`."""

    def __init__(
        self,
        storage: Storage,
        loras_dir: Path,
        *,
        in_use: Collection[tuple[str, str | None]] = (),
        endpoint: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """`endpoint` is by default that of HF_ENDPOINT. Files of repositories `in_use` are never removed."""
        self._storage = storage
        self._loras_dir = loras_dir
        self._in_use = in_use
        self._endpoint = endpoint or constants.ENDPOINT
        self._timeout_s = timeout_s
        self._api = HfApi(endpoint=self._endpoint)
        self._asking = ThreadPoolExecutor(_NUM_ASKING, thread_name_prefix="hub")
        self._downloading = ThreadPoolExecutor(_NUM_DOWNLOADING, thread_name_prefix="download")

    async def search(
        self, words: str = "", kind: RepositoryKind | None = None, base: str | None = None, *, limit: int
    ) -> list[Offer]:
        """Return the most downloaded repositories that fit.

        `words` are in the id, and `base` is the id of the model that it was made from. A repository whose whole id is
        sent comes first. Those without safetensors are returned with the reason why they cannot be installed.
        """
        tags = [*([TAGS[kind]] if kind else []), *([f"{BASE_TAG}{base}"] if base else [])]
        async with self._limited():
            found = await self._asked(lambda: self._ids(words, tags, limit))
            if not tags and _is_id(words):
                found = list(dict.fromkeys([words, *found]))[:limit]
            repositories = await asyncio.gather(*(self._asked(partial(self._listed, one)) for one in found))
            installed = {one.repository for one in await self.installed()}
        return [_offer(one, one.id in installed) for one in repositories if one is not None]

    async def plan(self, params: DownloadParams) -> DownloadParams:
        """Check a download as far as that is possible before it begins, and pin its revision to a commit.

        Raises UnsupportedValue if the repository cannot be used, LicenceNotAccepted, Forbidden if it is gated, and
        StorageFull.
        """
        async with self._limited():
            return await self._asked(lambda: self._planned(params))

    async def download(self, params: DownloadParams, report: Callable[[Progress], None]) -> Installed:
        """Download a repository and make it usable; what an earlier attempt has left is used.

        `report` receives how far it is. When the call is cancelled, it ends within a chunk, and what has arrived is
        kept. Raises what `plan` raises, HubFileCorrupt, and ModelUnavailable or AdapterInvalid if the files are no
        model or LoRA that is served.
        """
        async with self._limited():
            repository = await self._asked(lambda: self._repository(params.repository, params.revision))
            choice = _accepted(repository, params)
            configs = await self._asked(self._configs) if choice.is_checkpoint else None
        source, stop = self._source(repository), threading.Event()
        await self._asked(lambda: check_space(source, choice))
        meter = Meter(source, choice)

        def work() -> Installed:
            if configs is not None:
                download(self._source(configs), configs_of(configs), stop)
            folder = download(source, choice, stop)
            return install(repository, choice, folder, self._storage.installed_dir, self._loras_dir)

        running = self._downloading.submit(work)
        working = asyncio.wrap_future(running)
        try:
            while not (await asyncio.wait([working], timeout=_REPORT_S))[0]:
                report(await self._asked(meter.progress))
        except asyncio.CancelledError:
            stop.set()
            if not running.cancel():
                await asyncio.wait([working])
                working.exception()
            raise
        report(await self._asked(meter.progress))
        return await working

    async def installed(self) -> tuple[Installed, ...]:
        """Return what was downloaded, in the order of the ids."""
        return await self._asked(lambda: list_installed(self._storage.installed_dir, self._storage))

    async def remove(self, entry_id: str) -> None:
        """Remove what was downloaded, with its files. Raises NotFound."""
        installed = {one.id: one for one in await self.installed()}
        if entry_id not in installed:
            known = ", ".join(installed) or "none"
            raise NotFound(f"id: nothing is installed as {entry_id!r}. Installed: {known}.", param="id")
        registry, loras_dir, cache = self._storage.installed_dir, self._loras_dir, self._cache
        await self._asked(lambda: uninstall(installed[entry_id], registry, loras_dir, cache, in_use=self._in_use))

    @property
    def _cache(self) -> Path:
        return self._storage.hub_cache or Path(constants.HF_HUB_CACHE)

    def _source(self, repository: Repository) -> Source:
        return Source(
            endpoint=self._endpoint, repository=repository.id, commit=repository.revision, cache=self._cache
        )

    def _ids(self, words: str, tags: Iterable[str], limit: int) -> list[str]:
        # Not `HfApi.list_models`, which repeats a failed request for half a minute while somebody waits.
        params: dict[str, str | int | list[str]] = {"sort": "downloads", "limit": limit, "filter": list(tags)}
        if words:
            params["search"] = words
        url, headers = f"{self._endpoint}/api/models", build_hf_headers()
        with hub_errors(), self._as_hub():
            response = get_session().get(url, params=params, headers=headers, timeout=self._timeout_s)
            hf_raise_for_status(response)
            return [str(one["id"]) for one in response.json()]

    def _listed(self, repository: str) -> Repository | None:
        """Return a repository of a search, or None if it is gone since."""
        try:
            return self._repository(repository, None)
        except NotFound:
            return None

    def _repository(self, repository: str, revision: str | None) -> Repository:
        with hub_errors(repository, revision or ""), self._as_hub():
            info = self._api.model_info(repository, revision=revision, files_metadata=True, timeout=self._timeout_s)
        return repository_of(info, self._endpoint)

    def _planned(self, params: DownloadParams) -> DownloadParams:
        repository = self._repository(params.repository, params.revision)
        choice = _accepted(repository, params)
        if repository.is_gated:
            with hub_errors(repository.id):
                self._api.auth_check(repository.id)
        source = self._source(repository)
        if choice.is_checkpoint:
            with hub_errors(repository.id, repository.revision):
                check_checkpoint(source, choice.files[0], timeout_s=self._timeout_s)
        check_space(source, choice)
        told = {"revision": repository.revision, "kind": choice.kind, "file": choice.file}
        return params.model_copy(update=told)

    def _configs(self) -> Repository:
        """Return the repository of the configs and tokenizers that checkpoints lack."""
        return self._repository(SDXL_REPOSITORY, SDXL_REVISION)

    @contextmanager
    def _as_hub(self) -> Iterator[None]:
        """Raise HubUnavailable if an answer is not that of a model hub."""
        try:
            yield
        except (JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise HubUnavailable(f"{self._endpoint} does not answer as a model hub does.") from error

    async def _asked(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._asking, call)

    @asynccontextmanager
    async def _limited(self) -> AsyncIterator[None]:
        """Raise HubUnavailable after a time; a thread inside ends when its own request times out."""
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except TimeoutError as error:
            raise HubUnavailable(f"The model hub does not answer within {self._timeout_s:g} s.") from error


def _is_id(words: str) -> bool:
    try:
        _REPOSITORY_ID.validate_python(words)
    except ValidationError:
        return False
    return True


def _accepted(repository: Repository, params: DownloadParams) -> Choice:
    """Return the files to download. Raises UnsupportedValue, and LicenceNotAccepted without a matching licence."""
    choice = chosen(repository, params.kind, params.file)
    licence = repository.licence
    if params.accept_licence != licence.id:
        raise LicenceNotAccepted(
            f"accept_licence: the licence of {repository.id!r} is {licence.id!r}, see {licence.link}. Send that id "
            f"to accept it; got {params.accept_licence!r}.",
            param="accept_licence",
        )
    return choice


def _offer(repository: Repository, is_installed: bool) -> Offer:
    try:
        return Offer(repository, chosen(repository), None, is_installed)
    except UnsupportedValue as error:
        return Offer(repository, None, error.message, is_installed)
