"""Keeps every port of a Ray on the loopback. Import it before Ray; the workers of that Ray import it as well."""

from __future__ import annotations

import os

# Ray's switch for machines that run no cluster. All of its processes read it and bind to the loopback. Ray replaces
# a loopback address given to `ray.init` by one that other machines reach.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"

from ray._common import tls_utils
from ray._private.ray_constants import WORKER_PROCESS_SETUP_HOOK_ENV_VAR

_add_port = tls_utils.add_port_to_grpc_server


def bind_replicas() -> None:
    """Bind the gRPC server of this process's replica to the loopback; Serve 2.60 binds it to all addresses."""
    tls_utils.add_port_to_grpc_server = _add_loopback_port


def _add_loopback_port(server: object, address: str) -> int:
    port: int = _add_port(server, address.replace("[::]", "127.0.0.1"))
    return port


# Workers call it when they start. As a `runtime_env` of `ray.init` it would not reach the workers that Ray starts in
# advance.
os.environ[WORKER_PROCESS_SETUP_HOOK_ENV_VAR] = f"{__name__}.{bind_replicas.__name__}"
