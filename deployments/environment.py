"""Environment variables that every node of a cluster needs when Ray is started on it.

They are read when a process starts, some of them by Serve's controller and proxies, which no config reaches.
"""

from __future__ import annotations

#: By name. `cluster.yaml`, `deploy/` and the pages about deploying have the same.
ENVIRONMENT = {
    # A replica that fails its health checks is stopped at once. Otherwise it has five minutes, in which a frozen one
    # keeps its requests and its GPU.
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "deployments.proxy:middleware",
    # Calls between deployments go over gRPC. Over Ray's actor calls a replica waits until its caller has taken an
    # answer and does nothing else meanwhile, so that a frozen Router froze every replica that it had called.
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    # Limit of one message, in bytes. Serve's own is 4 MiB; an image of 2048 × 2048 pixels in float32 has 48 MiB.
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": "1073741824",
    # glibc gives every thread an arena of its own, and none returns memory that another one could use: a Router grew
    # by 0.7 MiB a minute under 16 clients.
    "MALLOC_ARENA_MAX": "2",
}
