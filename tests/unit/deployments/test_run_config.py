"""The config of `deployments.run`: where its server listens, and mistakes that are found before Ray is started."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from deployments.run_config import (
    CannotStart,
    address_of,
    check_arguments,
    check_port,
    check_weights,
    read_config,
)

_CONFIG = """
http_options: {{host: "{host}", port: {port}}}
applications: [{{name: atelier, import_path: "graph:build", route_prefix: {prefix}}}]
"""


def _config(folder: Path, *, host: str = "127.0.0.1", port: int = 8000, prefix: str = "/") -> Path:
    file = folder / "config.yaml"
    file.write_text(_CONFIG.format(host=host, port=port, prefix=prefix))
    return file


@pytest.mark.parametrize(
    ("host", "prefix", "address"),
    [
        ("127.0.0.1", "/", "http://127.0.0.1:8123"),
        ("0.0.0.0", "/", "http://127.0.0.1:8123"),
        ("::", "/", "http://[::1]:8123"),
        ("example.org", "/images", "http://example.org:8123/images"),
    ],
)
def test_the_address_is_that_of_the_config(host: str, prefix: str, address: str, tmp_path: Path) -> None:
    assert address_of(read_config(_config(tmp_path, host=host, port=8123, prefix=prefix))) == address


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        config = read_config(_config(tmp_path, port=port))
        with pytest.raises(CannotStart, match=rf"Cannot listen on 127\.0\.0\.1:{port} \(Address already in use\)"):
            check_port(config)
        # A connection that the server closes first occupies the port for a minute.
        with socket.create_connection(("127.0.0.1", port)):
            other.accept()[0].close()
    check_port(config)


def test_an_address_of_another_machine_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match=r"Cannot listen on 192\.0\.2\.77:8000 \(Cannot assign"):
        check_port(read_config(_config(tmp_path, host="192.0.2.77")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("applications: [", "Cannot read the config"),
        (
            "applications: []\nhttp_options: {port: many}",
            r"is wrong: http_options\.port: Input should be",
        ),
        ("applications: []", "is wrong: it has no applications"),
    ],
)
def test_a_wrong_config_is_explained(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(CannotStart, match=message):
        read_config(tmp_path / "config.yaml")


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match=r"Cannot read the config .*none\.yaml"):
        read_config(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{model: [tiny-sdxl]}", r"The arguments of atelier are wrong: model: Extra inputs"),
        ("{models: [other]}", r"Unknown model 'other'\."),
        ("{catalogue: none.yaml}", r"none\.yaml"),
    ],
)
def test_a_wrong_argument_is_explained(arguments: str, message: str, tmp_path: Path) -> None:
    config = _config(tmp_path)
    config.write_text(config.read_text().replace("}]", f", args: {arguments}}}]"))
    with pytest.raises(CannotStart, match=message):
        check_arguments(read_config(config))


@pytest.mark.parametrize(
    ("deployment", "message"),
    [
        (
            "{name: Router, user_config: {max_wait_s: 0}}",
            r"user_config of Router is wrong: max_wait_s: .* than 0",
        ),
        ("{name: Denoiser, user_config: {stall: 3}}", r"The user_config of Denoiser is wrong: stall: Extra inputs"),
        ("{name: Upscaler, user_config: {max_rows: 32}}", r"The user_config of Upscaler is wrong: max_rows: Extra"),
    ],
)
def test_wrong_limits_are_explained(deployment: str, message: str, tmp_path: Path) -> None:
    config = _config(tmp_path)
    config.write_text(config.read_text().replace("}]", f", deployments: [{deployment}]}}]"))
    with pytest.raises(CannotStart, match=message):
        check_arguments(read_config(config))


def test_right_limits_and_those_of_other_deployments_pass(tmp_path: Path) -> None:
    ours, others = "{name: Denoiser, user_config: {stall_s: 3}}", "{name: Other, user_config: {anything: 1}}"
    config = _config(tmp_path)
    config.write_text(config.read_text().replace("}]", f", deployments: [{ours}, {others}, {{name: Router}}]}}]"))
    check_arguments(read_config(config))


def _with_upscaler(folder: Path, *, require_weights: str) -> Path:
    """A config with an upscaler of the catalogue that is not part of this repository."""
    file = _config(folder)
    arguments = f"{{upscalers: [RealESRGAN_x4plus], require_weights: {require_weights}}}"
    file.write_text(file.read_text().replace("}]", f", args: {arguments}}}]"))
    return file


def test_missing_weights_are_named_before_ray_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATELIER_MODELS_DIR", str(tmp_path))
    place = tmp_path / "upscalers" / "RealESRGAN_x4plus.safetensors"
    with pytest.raises(CannotStart, match=f"Upscaler 'RealESRGAN_x4plus': the file {place} does not exist"):
        check_weights(read_config(_with_upscaler(tmp_path, require_weights="true")))
    check_weights(read_config(_with_upscaler(tmp_path, require_weights="false")))
    place.parent.mkdir()
    place.touch()
    check_weights(read_config(_with_upscaler(tmp_path, require_weights="true")))
