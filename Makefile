# What a fresh machine needs: make, and Python 3.11 or later. Everything else goes into .venv.
#   make demo ARGS=--once        make test PYTHON=/opt/python3.13/bin/python3

.DEFAULT_GOAL := help
.PHONY: help demo test fuzz lint format clean

VENV := .venv
BIN := $(VENV)/bin
ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3.14 python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c '$(ENOUGH)' 2>/dev/null && { echo $$p; break; }; done)

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## see it work: ARGS=--once, ARGS='--listen 127.0.0.1:9000'
	@$(BIN)/lifecycle-proxy demo $(ARGS)

test: lint ## everything that must hold before a commit: lint, types, tests, coverage
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --include='proxy/core/*' --fail-under=100
	$(BIN)/coverage report --fail-under=95

SECONDS ?= 60
fuzz: $(VENV)/.installed-dev ## mutated streams and requests: SECONDS=60 for each of the two
	$(BIN)/python fuzz/fuzz_pipeline.py --seconds $(SECONDS)
	$(BIN)/python fuzz/fuzz_http.py --seconds $(SECONDS)

lint: $(VENV)/.installed-dev ## style and types, nothing changed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/.installed-dev ## bring the code into form
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove .venv and all that tools left behind
	rm -rf $(VENV) build dist *.egg-info .coverage .coverage.* \
		.hypothesis .mypy_cache .pytest_cache .ruff_cache fuzz/corpus fuzz/failures
	find proxy tests fuzz bench -name __pycache__ -type d -prune -exec rm -rf {} +

# Never pip outside of .venv: the system's Python may be managed by somebody else.
$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or later found." \
		"Install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c '$(ENOUGH)' || { echo "make: $(PYTHON) is not Python 3.11 or later." \
		"Name another one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "make: $(PYTHON) has no venv or no ensurepip." \
		"On Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	"$(PYTHON)" -m venv --clear $(VENV)

# Stamps: install again where pyproject.toml has changed. Editable, so the sources need no stamp.
$(VENV)/.installed: pyproject.toml $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.installed
