PYTHON ?= python3
BIN := .venv/bin
# Without bytecode for every module of every library: Python compiles the third that is imported, when it is.
PIP_INSTALL := install --quiet --disable-pip-version-check --no-compile
# Call it with an environment and what to install. uv takes a third of pip's time, but does not read pip's
# configuration; where it reaches no index, pip installs.
install = (VIRTUAL_ENV=$(1) $(BIN)/uv pip install --quiet $(2) || $(BIN)/pip --python $(1) $(PIP_INSTALL) $(2))
ROOM ?= pipeline
# Keep bytecode even where the environment says not to: compiling the libraries takes seconds in every process.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help run setup format check test-quick test-fast test test-all clients gpu zoo mutate
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
	$(BIN)/pytest tests/unit -m "not slow and not zoo" -p no:schemathesis --numprocesses 2 --dist worksteal

test-fast: setup  ## all tests but the slow ones
	$(BIN)/pytest -m "not slow and not long"

test: setup  ## everything that CI runs
	$(MAKE) --jobs 2 check clients
	$(BIN)/pytest tests/unit tests/properties tests/quality tests/security -m "not long" --numprocesses 2 --dist worksteal
	$(BIN)/pytest tests/integration -m "not long" -rs

test-all: test  ## the same, and what takes too long for it
	$(BIN)/pytest -m long

clients: tests/clients/.venv/ready tests/clients/node_modules/ready  ## install OpenAI's clients, which the tests run

gpu: setup  ## measure SDXL at its real size on a CUDA device; needs 40 GB of its memory
	$(BIN)/python -m benchmarks.launches
	$(BIN)/python -m benchmarks.sdxl_gpu --dtype float16
	$(BIN)/python -m benchmarks.sdxl_gpu --dtype float16 --graphs --no-compile
	$(BIN)/python -m benchmarks.sdxl_gpu --dtype bfloat16

zoo: setup  ## train the zoo, or one model of it with MODEL=name
	$(BIN)/python -m zoo $(MODEL)

mutate: setup  ## break the functions of one ROOM of atelier and list what its quick tests let through
	$(BIN)/python -m tests.mutate $(ROOM)

# pip installs PyTorch, because a configuration of pip may name the build for this machine. The pip of PYTHON is tried
# first: `venv` takes five seconds to bring one.
torch = $(PIP_INSTALL) pip uv==0.13.9 $$(grep '^torch==' requirements.txt)
.venv/torch: requirements.txt
	$(PYTHON) -m venv --without-pip .venv
	$(PYTHON) -m pip --python .venv $(torch) || ($(PYTHON) -m venv .venv && $(BIN)/pip $(torch))
	touch $@

# The processes that only import compile what replicas import: one while the network is busy, then one on each core.
.venv/ready-to-run: requirements.txt pyproject.toml .venv/torch
	$(BIN)/python -W ignore -c "import torch._dynamo, torch.distributed.fsdp" & $(call install,.venv,-r requirements.txt) && wait
	$(call install,.venv,--no-deps --no-build-isolation --editable .)
	$(BIN)/python -W ignore -c "from diffusers import AutoencoderKL; from transformers import CLIPTextModel, CLIPTokenizer; \
		import atelier.local.stages" & \
	$(BIN)/python -W ignore -c "import deployments.run, graph" && wait
	touch $@

.venv/ready-to-test: tests/requirements.txt .venv/ready-to-run
	$(call install,.venv,-r tests/requirements.txt)
	touch $@

# Apart from .venv, because their ranges exclude some of the server's pins.
tests/clients/.venv/ready: tests/clients/requirements.txt | .venv/torch
	$(PYTHON) -m venv --clear --without-pip $(@D)
	$(call install,$(@D),--no-deps -r $<)
	touch $@

tests/clients/node_modules/ready: tests/clients/package-lock.json tests/clients/unpack.mjs
	@(cd tests/clients && npm ci --loglevel error && touch node_modules/ready) || \
	echo "npm is missing or installs nothing: tests of Node clients and of Chromium are skipped"
