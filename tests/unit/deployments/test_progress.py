"""What a start has come to, from statuses as Serve 2.60 reports them."""

from __future__ import annotations

import pytest
from ray.serve._private.common import DeploymentStatus, DeploymentStatusTrigger
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview, DeploymentStatusOverview, ServeStatus

from deployments.progress import deployments, failure, is_running

_TRIGGER = DeploymentStatusTrigger.UNSPECIFIED

_BUILD_FAILED = """Deploying app 'atelier' failed with exception:
Traceback (most recent call last):
  File "ray/serve/_private/application_state.py", line 926, in _reconcile_build_app_task
    serialized_application_autoscaling_policy_def, args, err = ray.get(
                                                               ^^^^^^^^
ray.exceptions.RayTaskError(RuntimeError): \x1b[36mray::build_serve_application()\x1b[39m (pid=29065, ip=127.0.0.1)
  File "ray/serve/_private/application_state.py", line 1843, in build_serve_application
    raise RuntimeError(err_str) from None
RuntimeError: Traceback (most recent call last):
  File "atelier/catalogue/catalogue.py", line 93, in _entry
    raise ModelNotFound(f"Unknown {what} {entry_id!r}. Known {what}s: {known}.", param=param)
atelier.core.errors.ModelNotFound: Unknown model 'other'. Known models: tiny-sdxl.
"""
_CONSTRUCTOR_FAILED = """The deployment failed to start 3 times in a row. See controller logs for details. Error:
Traceback (most recent call last):
  File "atelier/models/loading.py", line 170, in _explained_errors
    raise ModelUnavailable(
    ...<3 lines>...
    )
atelier.core.errors.ModelUnavailable: Model 'tiny-sdxl': the folder weights does not exist.
Correct `files.folder` in the catalogue.
"""


def _status(state: ApplicationStatus, message: str = "", **names: tuple[DeploymentStatus, str]) -> ServeStatus:
    shown = {name: DeploymentStatusOverview(one, _TRIGGER, {}, text) for name, (one, text) in names.items()}
    application = ApplicationStatusOverview(
        status=state, message=message, last_deployed_time_s=0.0, deployments=shown
    )
    return ServeStatus(applications={"atelier": application})


def test_deployments_are_ready_one_by_one() -> None:
    healthy, updating = (DeploymentStatus.HEALTHY, ""), (DeploymentStatus.UPDATING, "taking more than 30s")
    status = _status(ApplicationStatus.DEPLOYING, Router=healthy, Denoiser=updating)
    assert deployments(status) == {"Router": True, "Denoiser": False}
    assert not is_running(status)
    assert failure(status) is None
    assert is_running(_status(ApplicationStatus.RUNNING, Router=healthy, Denoiser=healthy))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (_BUILD_FAILED, "Unknown model 'other'. Known models: tiny-sdxl."),
        ("The application was deleted.", "The application was deleted."),
    ],
)
def test_an_application_that_cannot_be_built_is_explained_without_traceback(message: str, reason: str) -> None:
    assert failure(_status(ApplicationStatus.DEPLOY_FAILED, message)) == reason


def test_deployments_that_cannot_start_are_named() -> None:
    status = _status(
        ApplicationStatus.DEPLOY_FAILED,
        "The deployments ['Denoiser'] are UNHEALTHY.",
        Router=(DeploymentStatus.HEALTHY, ""),
        Denoiser=(DeploymentStatus.DEPLOY_FAILED, _CONSTRUCTOR_FAILED),
    )
    assert failure(status) == (
        "Denoiser: Model 'tiny-sdxl': the folder weights does not exist.\nCorrect `files.folder` in the catalogue."
    )
