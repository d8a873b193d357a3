"""The server, over HTTP.

Requests are sent again when their connection breaks. That makes no job twice, because a hand-in carries an
Idempotency-Key. A server that has answered before is waited for; one that has not is reported at once.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar
from urllib.parse import quote

import httpx2
from pydantic import BaseModel, ValidationError

from cli.answers import Capabilities, HubModel, HubModelList, Installed, InstalledList, Job, JobList, Removed
from cli.failures import Failure, Lost, Unreachable
from cli.patience import Patience

#: A stream of events has a comment every ten seconds.
_TIMEOUT = httpx2.Timeout(60, connect=5)
#: Statuses of a server, or of a proxy in front, that has no Router at the moment.
_PASSING = (502, 503, 504)

_Answer = TypeVar("_Answer", bound=BaseModel)


class Server:
    """The server at one address. All methods raise Failure with the server's message."""

    def __init__(self, http: httpx2.AsyncClient, say: Callable[[str], object]) -> None:
        """`say` shows a line of text to the user."""
        self._http, self._say = http, say
        self._has_answered = False

    @property
    def address(self) -> str:
        return str(self._http.base_url).rstrip("/")

    async def hand_in(self, operation: str, fields: Mapping[str, object], key: str) -> Job:
        """Hand in a job. The same `key` returns the job that was made with it before."""
        body = {"operation": operation, "input": fields}
        request = self._http.build_request("POST", "/v1/jobs", json=body, headers={"idempotency-key": key})
        return await self._asked(Job, request)

    async def job(self, job_id: str) -> Job:
        return await self._asked(Job, self._http.build_request("GET", f"/v1/jobs/{job_id}"))

    async def jobs(self, *, states: Sequence[str], operations: Sequence[str], limit: int) -> Sequence[Job]:
        """Return jobs, the latest first."""
        params: dict[str, int | Sequence[str]] = {"state": states, "operation": operations, "limit": limit}
        return (await self._asked(JobList, self._http.build_request("GET", "/v1/jobs", params=params))).data

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job, and return it as it is then."""
        return await self._asked(Job, self._http.build_request("DELETE", f"/v1/jobs/{job_id}"))

    async def file(self, job_id: str, name: str) -> bytes:
        """Return a file that a job has made."""
        return (await self._answer(self._http.build_request("GET", f"/v1/jobs/{job_id}/files/{name}"))).content

    async def capabilities(self) -> Capabilities:
        return await self._asked(Capabilities, self._http.build_request("GET", "/"))

    async def search_hub(
        self, words: str, *, kind: str | None = None, base: str | None = None, limit: int
    ) -> Sequence[HubModel]:
        """Return repositories of the model hub, the most downloaded first."""
        narrowed = {name: value for name, value in (("kind", kind), ("base", base)) if value is not None}
        params = {"q": words, "limit": str(limit), **narrowed}
        return (
            await self._asked(HubModelList, self._http.build_request("GET", "/v1/hub/search", params=params))
        ).data

    async def download(self, fields: Mapping[str, object], key: str) -> Job:
        """Hand in a download. The same `key` returns the job that was made with it before."""
        headers = {"idempotency-key": key}
        return await self._asked(
            Job, self._http.build_request("POST", "/v1/hub/download", json=fields, headers=headers)
        )

    async def installed(self) -> Sequence[Installed]:
        """Return what was downloaded from the model hub."""
        return (await self._asked(InstalledList, self._http.build_request("GET", "/v1/hub/installed"))).data

    async def remove(self, entry_id: str) -> None:
        """Remove what was downloaded, with its files."""
        await self._asked(Removed, self._http.build_request("DELETE", f"/v1/hub/installed/{quote(entry_id)}"))

    async def status(self, path: str) -> int:
        """Return the status of an address, which is asked once."""
        with self._failures():
            response = await self._http.get(path)
        self._has_answered = True
        return response.status_code

    async def events(self, job_id: str, *, after: int) -> AsyncGenerator[httpx2.ServerSentEvent]:
        """Yield the events of a job from the state after number `after` on. Raises Lost when the stream breaks."""
        headers = {"last-event-id": str(after)}
        with self._failures():
            async with self._http.sse(f"/v1/jobs/{job_id}/events", headers=headers) as source:
                await self._check(source.response)
                async for event in source:
                    yield event

    def patience(self) -> Patience:
        return Patience(self._say)

    async def _asked(self, kind: type[_Answer], request: httpx2.Request) -> _Answer:
        answer = await self._answer(request)
        try:
            return kind.model_validate_json(answer.content)
        except ValidationError:
            raise Failure(f"{answer.url} answers, but not as Atelier does. Is {self.address} the server?") from None

    async def _answer(self, request: httpx2.Request) -> httpx2.Response:
        patience = self.patience()
        while True:
            try:
                with self._failures():
                    response = await self._http.send(request)
                    await self._check(response)
                    return response
            except Lost as lost:
                await patience.pause(lost)

    async def _check(self, response: httpx2.Response) -> None:
        """Raise the error of an answer that is one."""
        self._has_answered = True
        if response.is_success:
            return
        await response.aread()
        message = _message(response)
        may_pass = response.status_code in _PASSING and response.headers.get("x-should-retry") != "false"
        raise Lost(message) if may_pass else Failure(message)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Raise Unreachable or Lost when no answer comes."""
        try:
            yield
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            if not self._has_answered:
                raise Unreachable(self.address, error) from None
            raise Lost(f"{self.address} cannot be reached any more.") from None
        except httpx2.TransportError:
            self._has_answered = True
            raise Lost(f"The connection to {self.address} is lost.") from None


@asynccontextmanager
async def connected(address: str, say: Callable[[str], object]) -> AsyncIterator[Server]:
    """Yield the server at an address; nothing is sent to it yet."""
    async with httpx2.AsyncClient(base_url=address, timeout=_TIMEOUT) as http:
        yield Server(http, say)


def _message(response: httpx2.Response) -> str:
    """Return the message of an error: Atelier's own, or what can be said about another program's."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"{response.url} answers with status {response.status_code}. `atelier doctor` says more."
