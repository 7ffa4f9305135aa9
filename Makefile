# What a fresh machine needs: make, and Python 3.11 or later. Everything else goes into .venv.
#   make demo ARGS=--once        make test PYTHON=/opt/python3.13/bin/python3
# LOCKED=1 installs the versions in locks/, with their hashes, as CI and the image do.

.DEFAULT_GOAL := help
.PHONY: help demo test check fuzz mutants bench lint format conformance lock audit release clean
.PHONY: style types tests core

# Where nothing compiled is kept, each process that starts compiles all that it imports, and each that runs
# tests rewrites the asserts of all of them: 14 s of CPU more.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3.14 python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c '$(ENOUGH)' 2>/dev/null && { echo $$p; break; }; done)

SAY := >&2 echo "make:"
FOUND = $(shell python3 --version 2>/dev/null | sed 's/^/python3 here is /' | grep . || \
	echo "there is no python3")
LOG := $(VENV)/install.log
UNREACHABLE := NewConnectionError|ConnectTimeout|ReadTimeout|ProxyError|Temporary failure
# Quiet, unless it fails. More retries would only take longer to fail.
install = PIP_RETRIES=$${PIP_RETRIES:-2} $(or $(2),$(BIN))/python -m pip install --disable-pip-version-check \
	$(1) >$(LOG) 2>&1 || { \
	if grep -Eq '$(UNREACHABLE)' $(LOG); then $(SAY) "no package index can be reached ($(LOG) has the details)." \
		"Connect to the network, or set HTTPS_PROXY or PIP_INDEX_URL, then try again."; \
	else tail -n 20 $(LOG) >&2; $(SAY) "the installation failed; $(LOG) has the details."; fi; exit 1; }

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## see it work: ARGS=--once, ARGS='--listen 127.0.0.1:9000'
	@$(BIN)/lifecycle-proxy demo $(ARGS)

# Some tests wait: two processes more than there are processors, and the types are checked beside them.
PROCESSES ?= $(shell expr 2 + $$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2))
test: style ## everything that must hold before a commit: lint, types, tests, coverage of the core; COVERAGE=all
	@$(MAKE) --no-print-directory --jobs=2 types tests

check: style ## the quick part: lint, types, the tests of the core
	@$(MAKE) --no-print-directory --jobs=2 types core

# Each file stays in one process: what it starts is started once. tests/conftest.py has their order. COVERAGE=core measures the core alone,
# by its own tests; COVERAGE=all measures everything, by all tests, which takes two minutes more.
COVERAGE ?= core
SHARED = -n $(PROCESSES) --dist loadfile --no-loadscope-reorder
tests: $(VENV)/.compiled
	rm -f .coverage .coverage.*
	COVERAGE=$(COVERAGE) $(BIN)/coverage run -m pytest $(SHARED)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --include='*/lifecycle_proxy/core/*' --fail-under=100
	$(if $(filter all,$(COVERAGE)),$(BIN)/coverage report --fail-under=95)

core: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(SHARED) tests/core tests/test_layout.py tests/test_docs.py

SECONDS ?= 60
fuzz: $(VENV)/.installed-dev ## mutated streams, requests, responses: SECONDS=60 for each
	$(BIN)/python fuzz/fuzz_pipeline.py --seconds $(SECONDS)
	$(BIN)/python fuzz/fuzz_http.py --seconds $(SECONDS)
	$(BIN)/python fuzz/fuzz_responses.py --seconds $(SECONDS)
	$(BIN)/python fuzz/fuzz_approvals.py --sessions 1000
	$(BIN)/python fuzz/fuzz_approvals.py --sessions 1000 --hermes
	$(BIN)/python fuzz/fuzz_routes.py --seconds $(SECONDS)
	$(BIN)/python fuzz/fuzz_failover.py
	$(BIN)/python fuzz/fuzz_failover.py --in-stream

SAMPLE ?= 200
mutants: $(VENV)/.installed-dev ## change the core at random: do tests fail? SAMPLE=200, SEED=
	$(BIN)/python fuzz/mutants.py --sample $(SAMPLE) $(if $(SEED),--seed $(SEED))

bench: $(VENV)/.installed-dev ## the cost beside a plain aiohttp proxy, and nginx if installed: ARGS='--rounds 8'
	@$(BIN)/python bench/compare.py $(ARGS)

lint: style types ## style and types, nothing changed

style: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.installed-dev
	$(BIN)/mypy

format: $(VENV)/.installed-dev ## bring the code into form
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

conformance: $(VENV)/.installed ## openai-python's tests, directly and proxied: needs npm; ARGS=--whole
	@$(BIN)/python bench/conformance.py --folder $(VENV)/conformance $(ARGS)

TOOLS := $(VENV)/tools
uv := uv==0.13.9
pip-audit := pip-audit==2.10.1
# Universal: for every system and every Python from 3.11 on, with markers where they differ.
compile = $(TOOLS)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-annotate --custom-compile-command 'make lock'
lock: $(TOOLS)/bin/uv ## write locks/ anew, with the newest versions that pyproject.toml allows
	$(compile) pyproject.toml --extra dev -o locks/dev.txt
	$(compile) pyproject.toml --extra redis -c locks/dev.txt -o locks/run.txt
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], \
		"editables", sep="\n")' | $(compile) - -c locks/dev.txt -o locks/build.txt

audit: $(TOOLS)/bin/pip-audit ## known vulnerabilities of the versions in locks/
	@$(BIN)/python .ci/audit.py $< locks/*.txt

twine := twine==7.0.0
check-wheel-contents := check-wheel-contents==0.6.3
cyclonedx-py := cyclonedx-bom==7.5.0
release: $(addprefix $(TOOLS)/bin/,uv twine check-wheel-contents cyclonedx-py) ## build and check what is published, into dist/
	@$(BIN)/python .ci/release.py $(TOOLS)/bin

$(TOOLS)/bin/%: Makefile $(BIN)/python
	@test -d $(TOOLS) || $(BIN)/python -m venv $(TOOLS)
	@$(call install,$($*),$(TOOLS)/bin)
	@touch $@

clean: ## remove .venv and all that tools left behind
	rm -rf $(VENV) build dist *.egg-info .coverage .coverage.* \
		.hypothesis .mypy_cache .pytest_cache .ruff_cache fuzz/corpus fuzz/failures
	find proxy tests fuzz bench -name __pycache__ -type d -prune -exec rm -rf {} +

# Never pip outside of .venv: the system's Python may be managed by somebody else. The one that a Python brings
# may be years old, and take twice as long as the newest. With LOCKED nothing comes that locks/ does not name.
$(BIN)/python:
	@test -n "$(PYTHON)" || { $(SAY) "Python 3.11 or later is needed, and $(FOUND)." \
		"Install one, or name it: make PYTHON=/path/to/python3"; exit 1; }
	@"$(PYTHON)" -c '$(ENOUGH)' 2>/dev/null || { $(SAY) "$(PYTHON) is not Python 3.11 or later." \
		"Name another one: make PYTHON=/path/to/python3"; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { $(SAY) \
		"$(PYTHON) has no venv or no ensurepip." \
		"On Debian and Ubuntu: sudo apt install python3-venv"; exit 1; }
	@mkdir -p "$(VENV)" 2>/dev/null && test -w "$(VENV)" || { $(SAY) \
		"$(abspath $(VENV)) cannot be written to." \
		"Choose another folder: make VENV=/tmp/lifecycle-proxy-venv $(MAKECMDGOALS)"; exit 1; }
	@"$(PYTHON)" -m venv --clear "$(VENV)"
	@$(if $(LOCKED),,PIP_RETRIES=0 $(BIN)/python -m pip install --quiet --upgrade pip >/dev/null 2>&1 || true)

# Most of what the tools bring is never imported, and what is, is compiled then: --no-compile.
# Stamps: install again where pyproject.toml has changed. Editable, so the sources need no stamp.
$(VENV)/.installed: pyproject.toml $(BIN)/python
	@echo "Installing into $(VENV): once, about half a minute, 60 MB."
	@$(call install,--editable .)
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(BIN)/python
	@echo "Installing into $(VENV), with the tools for tests: once, about a minute, 280 MB."
	@$(if $(LOCKED),$(call install,--no-compile --require-hashes -r locks/build.txt -r locks/dev.txt))
	@$(call install,--no-compile $(if $(LOCKED),--no-deps --no-build-isolation --editable .,--editable '.[dev]'))
	@touch $@ $(VENV)/.installed

# Once, so that the processes that share the tests do not all compile the same.
$(VENV)/.compiled: $(VENV)/.installed-dev
	@$(BIN)/python -m pytest --collect-only -qq >/dev/null || true
	@touch $@
