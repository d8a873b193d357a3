PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup run test test-fast check zoo
.DEFAULT_GOAL := run

setup: .venv/installed

.venv/installed: requirements.txt tests/requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

run: setup  ## start the graph on 127.0.0.1:8000
	@$(BIN)/python -m deployments.run serve_config.yaml

test: setup check  ## everything that CI runs
	$(BIN)/pytest

test-fast: setup
	$(BIN)/pytest -m "not slow"

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

zoo: setup  ## train the zoo, or one model of it with MODEL=name
	$(BIN)/python -m zoo $(MODEL)
