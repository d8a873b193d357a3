"""The handles of the graph's deployments, as one record."""

from __future__ import annotations

from dataclasses import dataclass

from ray.serve.handle import DeploymentHandle


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphHandles:
    """Handles of the deployments that the pipeline calls.

    `graph.build` fills the record with bound deployments; Serve replaces each by its handle before a Router receives
    the record.
    """

    text_encoder: DeploymentHandle
    annotator: DeploymentHandle
    denoiser: DeploymentHandle
    autoencoder: DeploymentHandle
    upscaler: DeploymentHandle
