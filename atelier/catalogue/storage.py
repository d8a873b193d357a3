"""Where a machine keeps the files of models that do not lie beside the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MODELS_DIR_VARIABLE = "ATELIER_MODELS_DIR"
MODELS_DIR_DESCRIPTION = (
    "Folder of models, the same path on every node: the hub's cache is its `hub`, converted upscalers lie in its "
    "`upscalers`, LoRAs in its `loras`, and its `installed` lists what was [downloaded](hub.md). By default the "
    "hub's own cache, see HF_HOME, and `upscalers`, `loras` and `installed` in `~/.cache/atelier`."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """The folder of models, and whether files must be there before a replica starts."""

    #: None stands for the hub's own cache and a folder in the user's home.
    models_dir: Path | None = None
    #: If False, repositories are downloaded when they are loaded, and upscalers without a file are bicubic.
    require_weights: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], *, require_weights: bool) -> Storage:
        """Read ATELIER_MODELS_DIR; an empty value is the same as none."""
        models_dir = environment.get(MODELS_DIR_VARIABLE)
        return cls(
            models_dir=Path(models_dir).expanduser().absolute() if models_dir else None,
            require_weights=require_weights,
        )

    @property
    def hub_cache(self) -> Path | None:
        """The hub's cache; None is the one that huggingface_hub itself would use."""
        return self.models_dir / "hub" if self.models_dir else None

    def upscaler_file(self, upscaler_id: str) -> Path:
        """Return where the converted weights of an upscaler lie whose entry names no file."""
        return self._own_folder / "upscalers" / f"{upscaler_id}.safetensors"

    @property
    def loras_dir(self) -> Path:
        """The folder that is watched for LoRAs if a graph names no other."""
        return self._own_folder / "loras"

    @property
    def installed_dir(self) -> Path:
        """The folder with an entry for each model that was downloaded by a client's request."""
        return self._own_folder / "installed"

    @property
    def _own_folder(self) -> Path:
        return self.models_dir or Path.home() / ".cache" / "atelier"
