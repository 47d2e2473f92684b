# Two commands on a fresh clone do everything: `make quickstart` runs the main job, `make test` the tests.
# Both set up .venv first; a second call finds it ready, until pyproject.toml or constraints.txt change.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?= --numprocesses auto
PIP_INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

QUICKSTART_METHODS := plain,steps:0.5,fora:3,toca:4:0.9,toca:4:0.9:random

.DEFAULT_GOAL := help
.PHONY: help quickstart test lint format types clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Variables: PYTHON=$(PYTHON) (creates $(VENV)), PYTEST_ARGS=$(PYTEST_ARGS) (for example PYTEST_ARGS='-k toca')"

quickstart: $(VENV)/.installed ## Generate pictures with and without acceleration, and compare them
	$(BIN)/dita compare --model shapes-flux --methods $(QUICKSTART_METHODS) --prompts 16 --out quickstart
	@echo "Open this in a browser: $(CURDIR)/quickstart/report.html"

test: $(VENV)/.installed-dev ## Run the tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev ## Check style and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(VENV)/.installed-dev ## Mend what the linter can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: $(VENV)/.installed-dev ## Check the types
	$(BIN)/mypy

clean: ## Remove what builds, tests and the quickstart leave (not .venv)
	rm -rf build dist quickstart .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find dita tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "dita needs Python 3.10 or newer: make PYTHON=...")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@echo "Installing dita in $(VENV) (minutes, the first time)"
	@$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing the tools for development"
	@$(PIP_INSTALL) --editable '.[dev]'
	@touch $@
