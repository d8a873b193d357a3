from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from atelier.core.params import OutputFormat
from atelier.pipeline.delivery import DeliveredFile, Delivery
from atelier.stores.blobs import BlobStore


@pytest.fixture
def delivery(tmp_path: Path) -> Delivery:
    blobs = BlobStore(tmp_path.as_uri(), ttl=timedelta(hours=1))
    return Delivery(blobs, lambda name: f"http://test/{name}")


async def test_a_file_in_the_answer_is_base64_and_not_stored(delivery: Delivery) -> None:
    delivered = await delivery.deliver(b"A\xff", "png", "b64_json")
    assert delivered == DeliveredFile(b64_json="Qf8=", url=None)
    digest = "f3c43500fa3e97e6f10f2e580a90102a3e2075a27f278727430c9a50e101b422"
    assert await delivery.blobs.get(f"{digest}.png") is None


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
async def test_a_file_behind_a_url_is_stored_with_its_format(delivery: Delivery, output_format: OutputFormat) -> None:
    delivered = await delivery.deliver(b"file", output_format, "url")
    digest = "3b9c358f36f0a31b6ad3e14f309c7cf198ac9246e8316f9ce543d5b19ac02b80"
    assert delivered == DeliveredFile(b64_json=None, url=f"http://test/{digest}.{output_format}")
    assert await delivery.blobs.get(f"{digest}.{output_format}") == b"file"
