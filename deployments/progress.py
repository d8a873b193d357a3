"""The start of a graph, as Serve's status shows it: what is ready, and why something is not."""

from __future__ import annotations

import re

from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview, ServeStatus

_FRAME = '  File "'


def deployments(status: ServeStatus) -> dict[str, bool]:
    """Return whether each deployment is ready; empty until Serve has built the applications."""
    return {
        name: deployment.status == "HEALTHY"
        for application in status.applications.values()
        for name, deployment in application.deployments.items()
    }


def is_running(status: ServeStatus) -> bool:
    """Return whether every deployment of every application is ready."""
    return all(application.status == ApplicationStatus.RUNNING for application in status.applications.values())


def failure(status: ServeStatus) -> str | None:
    """Return why an application cannot be deployed, or None."""
    failed = (one for one in status.applications.values() if one.status == ApplicationStatus.DEPLOY_FAILED)
    return next(map(_reason, failed), None)


def _reason(application: ApplicationStatusOverview) -> str:
    reasons = [
        f"{name}: {_error_of(deployment.message)}"
        for name, deployment in application.deployments.items()
        if deployment.status == "DEPLOY_FAILED"
    ]
    return "\n".join(reasons) or _error_of(application.message)


def _error_of(message: str) -> str:
    """Return the error at the end of a message's traceback, without its class, or a message without traceback."""
    _, frame, rest = message.rpartition(_FRAME)
    if not frame:
        return message.strip()
    lines = rest.splitlines()[1:]
    while lines and lines[0].startswith(" "):
        del lines[0]
    return re.sub(r"^[\w.]+: ", "", "\n".join(lines)).strip()
