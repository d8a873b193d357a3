"""Webhooks: the message that a client gets when its job has ended.

state      │ next state, and what leads there
───────────┼────────────────────────────────────────────────────────────
pending    │ delivered  its receiver answers with a status from 200 to 299
           │ given_up   its receiver answers 410, or the last attempt fails
delivered and given_up are final
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

WebhookState = Literal["pending", "delivered", "given_up"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewWebhook:
    """A webhook as it is handed in with a job."""

    #: Where the message is sent.
    url: str
    #: Address of this server for the client, before the paths of the URLs in the message.
    base_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """The webhook of a job as it is stored."""

    job_id: str
    url: str
    base_url: str
    state: WebhookState
    #: Number of times that an attempt to deliver it was begun.
    attempts: int
    #: Why the last attempt failed; None if none has.
    last_error: str | None
