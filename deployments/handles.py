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

    def prefer_own_node(self) -> None:
        """Prefer replicas on the caller's node, to which no arrays are copied. Call it before the first call.

        Denoisers are left out: their work is what must be divided evenly over all nodes.
        """
        for handle in (self.text_encoder, self.annotator, self.autoencoder, self.upscaler):
            if not handle.is_initialized:
                handle._init(_prefer_local_routing=True)
