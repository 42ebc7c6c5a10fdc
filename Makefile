# The one entry for every chore. `make` alone lists them.
#
#   PYTHON       the interpreter that makes the environments (3.11 or newer)
#   WHEEL_TESTS  what `make test-wheel` runs; empty: the whole suite
#   PIP_ARGS     passed to every `pip install`, for an index of your own: make demo PIP_ARGS="--index-url …"

PYTHON   ?= python3
PIP_ARGS ?=
WHEEL_TESTS ?=
VENV     := .venv
BIN      := $(VENV)/bin
PIP      := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Newer than the pip that Python 3.11 brings: `--group` came with 25.1.
PIP_PIN  := $(shell sed -n 's/^pip==/pip==/p' constraints.txt)

.PHONY: help demo test test-wheel check format protos failure-modes bench clean
.DEFAULT_GOAL := help

help: ## list the chores
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/make \1	\2/p' Makefile | expand -t 20

demo: $(VENV)/.runtime ## train last week's and this week's model on one machine, from nothing
	@$(BIN)/gradsight demo

test: $(VENV)/.development ## run the test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/unit tests/integration
	$(BIN)/python -m pytest tests/e2e

test-wheel: $(VENV)/.development ## run the suite against the built wheel instead of the sources
	$(BIN)/python scripts/test_wheel.py --pip-args "$(PIP_ARGS)" $(WHEEL_TESTS)

check: $(VENV)/.development .venv-protos/.installed ## format, lint, types, layers, contract, stubs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/buf format --diff --exit-code protos
	$(BIN)/buf lint protos
	.venv-protos/bin/python scripts/gen_protos.py --check
	$(BIN)/python scripts/gen_failure_modes.py --check
	$(BIN)/lint-imports
	$(BIN)/mypy

format: $(VENV)/.development ## put the sources in order
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
	$(BIN)/buf format -w protos

protos: .venv-protos/.installed ## regenerate the stubs from protos/
	.venv-protos/bin/python scripts/gen_protos.py

failure-modes: $(VENV)/.development ## write docs/failure-modes from what the kinds of findings say of themselves
	$(BIN)/python scripts/gen_failure_modes.py

bench: $(VENV)/.bench ## run every benchmark (several minutes); BENCH_ARGS="--quick" for a minute each
	@for script in benchmarks/[a-z]*.py; do $(BIN)/python $$script $(BENCH_ARGS) || exit 1; done

clean: ## remove what the chores made
	rm -rf .venv .venv-protos .venv-wheel dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"gradsight needs Python 3.11 or newer, got {v[0]}.{v[1]}: make … PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install $(PIP_ARGS) $(PIP_PIN)

$(VENV)/.runtime: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing what gradsight runs on (PyTorch is the large part) …"
	$(PIP) install $(PIP_ARGS) -c constraints.txt -e '.[all]'
	@touch $@

$(VENV)/.development: $(VENV)/.runtime
	$(PIP) install $(PIP_ARGS) -c constraints.txt --group dev
	@touch $@

$(VENV)/.bench: $(VENV)/.development
	$(PIP) install $(PIP_ARGS) -c constraints.txt --group bench
	@touch $@

.venv-protos/.installed: pyproject.toml $(BIN)/python
	$(PYTHON) -m venv .venv-protos
	.venv-protos/bin/python -m pip --disable-pip-version-check --quiet install $(PIP_ARGS) $(PIP_PIN)
	.venv-protos/bin/python -m pip --disable-pip-version-check --quiet install $(PIP_ARGS) --group protos
	@touch $@
