"""Settings of webhooks, as Routers and Workers read them."""

from __future__ import annotations

import pytest

from deployments.settings import Settings
from deployments.storage import webhook_key


def test_webhooks_are_off_without_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATELIER_WEBHOOK_SECRET", raising=False)
    assert webhook_key(Settings()) is None


def test_the_secret_is_read_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATELIER_WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    monkeypatch.setenv("ATELIER_WEBHOOK_HOSTS", '["hooks.internal"]')
    settings = Settings()
    key = webhook_key(settings)
    assert key is not None
    assert len(key) == 24
    assert "MfKQ" not in repr(settings)
    assert settings.webhook_hosts == ("hooks.internal",)


def test_a_wrong_secret_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATELIER_WEBHOOK_SECRET", "whsec_short")
    with pytest.raises(ValueError, match="ATELIER_WEBHOOK_SECRET") as refused:
        webhook_key(Settings())
    assert "whsec_short" not in str(refused.value)
