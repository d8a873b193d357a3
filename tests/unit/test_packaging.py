"""What pyproject.toml declares: ranges that admit the tested pins, and every import in the extra that needs it."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import grimp
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_ROOT = Path(__file__).parents[2]
_PYPROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text())
_OWN = ("atelier", "cli", "deployments", "zoo")
_ROUTER_COLUMN = {
    f"atelier.{room}" for room in ("api", "catalogue", "hub", "imaging", "jobs", "pipeline", "prompts", "stores")
}
_MODEL_COLUMN = {f"atelier.{room}" for room in ("control", "engine", "families", "models")}

#: Modules that can be imported if only this extra is installed; the empty extra is the base installation.
_MODULES = {
    "": {"atelier.core"},
    "router": _ROUTER_COLUMN,
    "models": _MODEL_COLUMN,
    "serve": {"deployments", "atelier.local", *_ROUTER_COLUMN, *_MODEL_COLUMN},
    "tracing": {"deployments"},
    "cli": {"cli"},
    "zoo": {"zoo", *_MODEL_COLUMN},
}
#: Packages that train the zoo, but that no server needs. They are pinned with what `make setup` installs.
_ZOO_ALONE = {"peft"}
#: Imported packages that need no requirement of their own, because the package named here requires them.
_PART_OF = {"pydantic_core": "pydantic"}


def _parsed(lines: Iterable[str]) -> list[Requirement]:
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-r"))]


def _declared(extra: str) -> dict[str, Requirement]:
    """The requirements of the base and of an extra, including those of the extras that it includes, by name."""
    project = _PYPROJECT["project"]
    found: dict[str, Requirement] = {}
    for requirement in _parsed(project["dependencies"] + project["optional-dependencies"].get(extra, [])):
        if requirement.name == project["name"]:
            for included in requirement.extras:
                found |= _declared(included)
        else:
            found[canonicalize_name(requirement.name)] = requirement
    return found


def _pins(file: str) -> dict[str, Requirement]:
    return {canonicalize_name(pin.name): pin for pin in _parsed((_ROOT / file).read_text().splitlines())}


@cache
def _imports() -> grimp.ImportGraph:
    graph = grimp.build_graph(
        *_OWN, include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None
    )
    # Imported for a config only; without the server's packages the command says what to install.
    graph.remove_import(importer="cli.doctor", imported="deployments.doctor")
    return graph


@cache
def _distributions() -> dict[str, list[str]]:
    return {name: [canonicalize_name(one) for one in found] for name, found in packages_distributions().items()}


def _imported(extra: str) -> set[str]:
    """Third-party packages that the extra's modules import, directly or through other modules of ours."""
    graph = _imports()
    modules = {module for root in _MODULES[extra] for module in (root, *graph.find_descendants(root))}
    reached = modules.union(*(graph.find_upstream_modules(module) for module in modules))
    return {name for name in reached if graph.is_module_squashed(name) and name not in sys.stdlib_module_names}


def test_every_pin_is_within_the_declared_range() -> None:
    declared = {name: one for extra in _MODULES for name, one in _declared(extra).items()}
    builds = {canonicalize_name(one.name): one for one in _parsed(_PYPROJECT["build-system"]["requires"])}
    pins = _pins("requirements.txt") | {name: _pins("tests/requirements.txt")[name] for name in _ZOO_ALONE}
    assert pins.keys() == (declared | builds).keys()
    for name, requirement in (declared | builds).items():
        [pin] = pins[name].specifier
        assert requirement.specifier.contains(pin.version), f"{requirement} excludes the tested {pins[name]}"
        assert requirement.extras == pins[name].extras


def test_servers_do_not_install_what_only_the_zoo_needs() -> None:
    assert _ZOO_ALONE.isdisjoint(_pins("requirements.txt"))
    assert _ZOO_ALONE.isdisjoint(_declared("tracing"))
    assert _declared("zoo").keys() >= _ZOO_ALONE


def test_wheel_has_the_weights_of_the_zoo() -> None:
    [pattern] = _PYPROJECT["tool"]["setuptools"]["package-data"]["zoo"]
    packed = set((_ROOT / "zoo").glob(pattern))
    assert {file for file in (_ROOT / "zoo/weights").rglob("*") if file.is_file()} <= packed


@pytest.mark.parametrize("extra", _MODULES, ids=lambda extra: extra or "base")
def test_every_imported_package_is_declared(extra: str) -> None:
    declared = _declared(extra)
    undeclared = {
        package
        for package in _imported(extra)
        if declared.keys().isdisjoint(_distributions()[_PART_OF.get(package, package)])
    }
    assert undeclared == set()


def test_the_rooms_are_all_of_atelier() -> None:
    rooms = _imports().find_children("atelier")
    assert rooms == set().union(*_MODULES.values()) - {"cli", "deployments", "zoo"}
