PYTHON ?= python3
BIN := .venv/bin
# Without bytecode for every module of every library: Python compiles the third that is imported, when it is.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile
# uv takes a third of pip's time, but does not read pip's configuration; where it reaches no index, pip installs.
install = (VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet $(1) || $(PIP) $(1))
ROOM ?= pipeline
# Keep bytecode even where the environment says not to: compiling the libraries takes seconds in every process.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help run setup format check test-quick test-fast test zoo mutate
.DEFAULT_GOAL := run

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: .venv/ready-to-run  ## start the graph on 127.0.0.1:8000
	@$(BIN)/python -m deployments.run serve_config.yaml

setup: .venv/ready-to-test  ## install what the tests and checks need, too

format: setup  ## sort imports, fix what ruff can fix, format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: setup  ## ruff, mypy and the import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test-quick: setup  ## unit tests on small random models
	$(BIN)/pytest tests/unit -m "not slow and not zoo" --numprocesses 2

test-fast: setup  ## all tests but the slow ones
	$(BIN)/pytest -m "not slow"

test: setup check  ## everything that CI runs
	$(BIN)/pytest tests/unit tests/properties tests/quality tests/security --numprocesses 2 --dist worksteal
	$(BIN)/pytest tests/integration

zoo: setup  ## train the zoo, or one model of it with MODEL=name
	$(BIN)/python -m zoo $(MODEL)

mutate: setup  ## break the functions of one ROOM of atelier and list what its quick tests let through
	$(BIN)/python -m tests.mutate $(ROOM)

# pip installs PyTorch, because a configuration of pip may name the build for this machine.
.venv/torch: requirements.txt
	$(PYTHON) -m venv .venv
	$(PIP) $$(grep '^torch==' requirements.txt) uv==0.13.9
	touch $@

# The processes that only import compile what replicas import: one while the network is busy, then one on each core.
.venv/ready-to-run: requirements.txt pyproject.toml .venv/torch
	$(BIN)/python -W ignore -c "import torch._dynamo, torch.distributed.fsdp" & $(call install,-r requirements.txt) && wait
	$(call install,--no-deps --no-build-isolation --editable .)
	$(BIN)/python -W ignore -c "from diffusers import AutoencoderKL; from transformers import CLIPTextModel, CLIPTokenizer; \
		import atelier.local.stages" & \
	$(BIN)/python -W ignore -c "import deployments.run, graph" && wait
	touch $@

.venv/ready-to-test: tests/requirements.txt .venv/ready-to-run
	$(call install,-r tests/requirements.txt)
	touch $@
