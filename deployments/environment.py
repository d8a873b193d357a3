"""Environment variables that every node of a cluster needs when Ray is started on it.

Serve reads them in the processes of its controller and its proxies, which no config reaches.
"""

from __future__ import annotations

#: By name. `cluster.yaml`, `deploy/` and the pages about deploying have the same.
ENVIRONMENT = {
    # A replica that fails its health checks is stopped at once. Otherwise it has five minutes, in which a frozen one
    # keeps its requests and its GPU.
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "deployments.proxy:middleware",
}
