"""Signatures of webhooks, against the vector that the specification's libraries are tested with."""

from __future__ import annotations

import base64

import pytest

from atelier.jobs.signatures import secret_of, signed_headers


def test_a_signature_is_that_of_the_specification() -> None:
    key = secret_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = signed_headers(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330.9, b'{"test": 2432232314}')
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize("num_bytes", [24, 64])
def test_secrets_of_the_allowed_lengths_are_read(num_bytes: int) -> None:
    key = bytes(range(num_bytes))
    assert secret_of(f"whsec_{base64.b64encode(key).decode()}") == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "whsec_",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS",
        "whsec_MfKQ9r8GKYqrTwjU PD8ILPZIo2LaLaSw",
        f"whsec_{base64.b64encode(bytes(23)).decode()}",
        f"whsec_{base64.b64encode(bytes(65)).decode()}",
        "whsec_ü",
    ],
)
def test_other_secrets_are_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ValueError, match="ATELIER_WEBHOOK_SECRET") as refused:
        secret_of(text)
    assert len(text) < 10 or text not in str(refused.value)
