"""The Serve config of `deployments.run`: what it says, and where its server will listen."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import yaml
from pydantic import ValidationError
from ray._common.utils import import_attr
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve.schema import DeploymentSchema, ServeDeploySchema

from atelier.catalogue.catalogue import CatalogueError
from atelier.core.errors import AtelierError
from atelier.models.files import absent
from deployments.limits import LIMITS
from deployments.options import GraphArgs

#: Addresses that stand for all of a machine's, and one of them that a client on the machine can use.
_REACHED_AT = {"0.0.0.0": "127.0.0.1", "::": "::1"}


#: The graph whose arguments name the models.
GRAPH = "graph:build"


class CannotStart(Exception):
    """The graph cannot start; the message says why."""


def read_config(file: Path) -> ServeDeploySchema:
    """Read a Serve config. Raises CannotStart if there is none or it is wrong."""
    try:
        config = ServeDeploySchema.model_validate(yaml.safe_load(file.read_text()))
    except (OSError, yaml.YAMLError) as error:
        raise CannotStart(f"Cannot read the config {file}: {error}") from error
    except ValidationError as error:
        raise CannotStart(f"The config {file} is wrong: {_mistakes(error)}") from error
    if not config.applications:
        raise CannotStart(f"The config {file} is wrong: it has no applications")
    return config


def check_arguments(config: ServeDeploySchema) -> None:
    """Build the config's applications.

    Raises CannotStart if an argument or a limit of our deployments is wrong, or what a catalogue says.
    """
    for application in config.applications:
        for deployment in application.deployments:
            _check_limits(deployment)
        builder = import_attr(application.import_path)
        try:
            call_user_app_builder_with_args_if_necessary(builder, application.args)
        except ValidationError as error:
            raise CannotStart(f"The arguments of {application.name} are wrong: {_mistakes(error)}") from error
        except (AtelierError, CatalogueError) as error:
            raise CannotStart(str(error)) from error


def check_weights(config: ServeDeploySchema) -> None:
    """Raise CannotStart if files of a graph's models are missing on this machine.

    On a cluster, replicas look for themselves: their nodes may have files that this one does not.
    """
    for application in config.applications:
        if application.import_path == GRAPH:
            args = GraphArgs.model_validate(application.args)
            if args.require_weights and (messages := absent(args.read(os.environ))):
                raise CannotStart("\n".join(messages))


def _check_limits(deployment: DeploymentSchema) -> None:
    limits, user_config = LIMITS.get(deployment.name), deployment.user_config
    # Serve's own default, which stands for an absent field, is no limit.
    if limits is None or not isinstance(user_config, dict):
        return
    try:
        limits.model_validate(user_config)
    except ValidationError as error:
        raise CannotStart(f"The user_config of {deployment.name} is wrong: {_mistakes(error)}") from error


def _mistakes(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())


def address_of(config: ServeDeploySchema) -> str:
    """Return the URL of the first application, as a client on this machine uses it."""
    host = _REACHED_AT.get(config.http_options.host, config.http_options.host)
    prefix = config.applications[0].route_prefix or ""
    return f"http://{f'[{host}]' if ':' in host else host}:{config.http_options.port}{prefix.rstrip('/')}"


def check_port(config: ServeDeploySchema) -> None:
    """Raise CannotStart if the config's host and port cannot be listened on.

    Serve shares a port with another Serve of the same user, so the requests would be divided between both.
    """
    host, port = config.http_options.host, config.http_options.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # Connections of a server that has just ended do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise CannotStart(
            f"Cannot listen on {host}:{port} ({error.strerror}). Stop the program that does, or change "
            "http_options.port in the config."
        ) from error
