# Two commands on a fresh clone do everything: `make quickstart` runs the main job, `make test` the tests.
# Both set up .venv first; a second call finds it ready, until pyproject.toml or constraints.txt change.

PYTHON ?= python3
# DIFFUSERS=0.41 takes another release that pyproject.toml admits, DIFFUSERS=newest the newest of everything; each has
# an environment of its own.
DIFFUSERS ?= pinned
VENV := .venv$(if $(filter-out pinned,$(DIFFUSERS)),-$(DIFFUSERS))
BIN := $(VENV)/bin
PYTEST_ARGS ?= --numprocesses auto
PINS := $(VENV)/constraints-$(DIFFUSERS).txt
PIP_INSTALL := $(BIN)/python -m pip install --quiet --constraint $(PINS)

# Tests of what is computed before anything runs: no model is loaded.
PLAN_TESTS := $(addprefix tests/test_,$(addsuffix .py,families fitting full_steps merges method_pages methods \
	opensora_plans plan published_plans schedules shapes stores tables))
TUNED := dita/miniature/tuned/shapes-flux.json
QUICKSTART_METHODS := plain,steps:0.35,steps:0.35:unipc,toca:4:0.9,taylorseer:4:1,$(TUNED)

.DEFAULT_GOAL := help
.PHONY: help quickstart test lint format types fast docs wheel clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Variables: PYTHON=$(PYTHON) (creates $(VENV)), PYTEST_ARGS=$(PYTEST_ARGS) (for example PYTEST_ARGS='-k toca')"

quickstart: $(VENV)/.installed ## Generate pictures with and without acceleration, and compare them
	$(BIN)/dita compare --model shapes-flux --methods $(QUICKSTART_METHODS) --prompts examples/shapes_prompts.txt --seed 1000 --out quickstart
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

fast: $(VENV)/.installed-fast ## Check style, types and plans, in two minutes
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest $(PYTEST_ARGS) $(PLAN_TESTS)

docs: $(VENV)/.installed-dev ## Build the site in site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Open this in a browser: $(CURDIR)/site/index.html"

wheel: ## Build the wheel and run it in an empty environment
	.ci/wheel

clean: ## Remove what builds, tests and the quickstart leave (not .venv)
	rm -rf build dist quickstart site .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find dita tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "dita needs Python 3.10 or newer: make PYTHON=...")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@echo "Installing dita in $(VENV) (minutes, the first time)"
	@case $(DIFFUSERS) in \
		pinned) cp constraints.txt $(PINS) ;; \
		newest) : >$(PINS) ;; \
		*) sed -E '/^(huggingface_hub|tokenizers|transformers)==/d; s/^diffusers==.*/diffusers==$(DIFFUSERS).*/' \
			constraints.txt >$(PINS) ;; \
	esac
	@$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.installed-fast: $(VENV)/.installed
	@echo "Installing the checks"
	@$(PIP_INSTALL) --editable '.[metrics,opensora]' ruff mypy hypothesis pytest pytest-xdist
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing the tools for development"
	@$(PIP_INSTALL) --editable '.[dev]'
	@test $(DIFFUSERS) != newest || $(PIP_INSTALL) --upgrade torch diffusers transformers accelerate peft gradio
	@touch $@
