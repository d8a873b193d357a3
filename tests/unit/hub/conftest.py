from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from atelier.catalogue.storage import Storage
from atelier.hub.hub import Hub
from tests.hub import Hub as Server
from tests.hub import hub

_WEIGHTS = Path(__file__).parents[3] / "zoo/weights"
CARDS: dict[str, dict[str, object]] = {
    "me/tiny-sdxl": {
        "tags": ["diffusers:StableDiffusionXLPipeline", "license:apache-2.0"],
        "cardData": {"license": "apache-2.0"},
        "downloads": 50,
        "likes": 3,
    },
    "me/neon": {
        "tags": ["lora", "base_model:me/tiny-sdxl", "base_model:adapter:me/tiny-sdxl", "license:other"],
        "cardData": {
            "license": "other",
            "license_name": "neon-licence",
            "license_link": "https://example.org/licence",
            "instance_prompt": "neon style",
        },
        "downloads": 40,
    },
    "me/styles": {"tags": ["lora", "base_model:me/tiny-sdxl", "base_model:adapter:me/tiny-sdxl"], "downloads": 30},
    "me/pickles": {"tags": ["lora", "license:mit"], "downloads": 20},
    "me/canny": {"tags": ["controlnet", "license:mit"], "downloads": 10},
    "other/gated-neon": {"tags": ["lora", "license:mit"], "gated": "auto", "downloads": 5},
}


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parts of the zoo as authors would publish them, with pickles beside them."""
    root = tmp_path_factory.mktemp("hub")
    shutil.copytree(_WEIGHTS / "tiny-sdxl", root / "me/tiny-sdxl")
    (root / "me/tiny-sdxl/unet/diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    for name, loras in {
        "me/neon": ["tiny-neon"],
        "me/styles": ["tiny-neon", "tiny-outline"],
        "other/gated-neon": ["tiny-neon"],
    }.items():
        (root / name).mkdir(parents=True)
        for lora in loras:
            shutil.copy(_WEIGHTS / lora / f"{lora}.safetensors", root / name)
    (root / "me/pickles").mkdir()
    (root / "me/pickles/pytorch_lora_weights.bin").write_bytes(b"a pickle")
    shutil.copytree(_WEIGHTS / "tiny-canny", root / "me/canny")
    return root


@pytest.fixture
def server(repositories: Path) -> Iterator[Server]:
    with hub(repositories) as running:
        running.cards = CARDS
        yield running


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(models_dir=tmp_path / "models")


@pytest.fixture
def own_hub(server: Server, storage: Storage) -> Hub:
    """The hub as a server of Atelier uses it."""
    return Hub(storage, storage.loras_dir, endpoint=server.address, timeout_s=20)
