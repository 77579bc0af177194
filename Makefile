# Commands for working in a clone. Each makes its own virtual environment and installs what it needs, once:
# again only when pyproject.toml or constraints.txt change, or the clone has moved. Needs Python 3.11+ and make.
#
#   make demo PYTHON=python3.12      use another Python
#   make test VENV=/tmp/venv         use another place for the environment (a path without spaces)
#   make test ARGS=tests/plans       the tests of one package
#   make test ARGS="-k selectors"    any other arguments for pytest

PYTHON ?= python3.11
VENV ?= .venv
OUTPUT ?= demo-output
ARGS ?=

ifneq ($(words $(VENV)),1)
$(error VENV must be one path without spaces, found "$(VENV)". The clone itself may lie in a folder with spaces)
endif

# An active environment, or personal pip and Python settings that place packages elsewhere, must not leak in.
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH PIP_TARGET PIP_PREFIX PIP_USER CONDA_PREFIX

VENV_PYTHON := $(VENV)/bin/python
PIP_INSTALL := "$(VENV_PYTHON)" -m pip install --disable-pip-version-check --constraint constraints.txt
# The editable install points at this very folder: stamps of a copied or moved clone must not count.
PLACE := $(shell pwd | cksum | cut -d ' ' -f 1)
VENV_READY := $(VENV)/.created-$(PLACE)
DEMO_READY := $(VENV)/.installed-demo-$(PLACE)
TEST_READY := $(VENV)/.installed-test-$(PLACE)
DEV_READY := $(VENV)/.installed-dev-$(PLACE)
# One worker for each core, each with one thread: tiny models gain nothing from threads, and threads that share a
# core stall each other.
PYTEST := OMP_NUM_THREADS=1 "$(VENV_PYTHON)" -m pytest --numprocesses=logical --dist=worksteal

.PHONY: help demo test test-fast lint format clean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

help:  ## Show these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  make test ARGS=tests/plans         the tests of one package; test-fast takes ARGS, too"
	@echo "  make test ARGS='-k selectors -x'   any other arguments for pytest"

demo: $(DEMO_READY)  ## Fine-tune a real ImageNet model on real images, offline, into demo-output/
	HF_HUB_OFFLINE=1 "$(VENV)/bin/hf-transfer" demo --output_dir "$(OUTPUT)" --overwrite_output_dir

test: $(TEST_READY)  ## Run all tests
	$(PYTEST) $(ARGS)

test-fast: $(TEST_READY)  ## Run the tests that take seconds
	$(PYTEST) -m "not slow" $(ARGS)

lint: $(DEV_READY)  ## Check style, formatting and types
	"$(VENV_PYTHON)" -m ruff check .
	"$(VENV_PYTHON)" -m ruff format --check .
	"$(VENV_PYTHON)" -m mypy

format: $(DEV_READY)  ## Repair style and formatting where that can be done by machine
	"$(VENV_PYTHON)" -m ruff check --fix .
	"$(VENV_PYTHON)" -m ruff format .

clean:  ## Remove the environment, caches, build output and demo-output/
	@if [ -f "$(VENV)/pyvenv.cfg" ]; then rm -rf "$(VENV)"; fi
	rm -rf build dist demo-output .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find hf_transfer tests examples scripts -name __pycache__ -type d -prune -exec rm -rf {} +

$(DEMO_READY): $(VENV_READY) pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable '.[demo]'
	@touch "$@"

$(TEST_READY): $(VENV_READY) pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable '.[test]'
	@touch "$@" "$(DEMO_READY)"

$(DEV_READY): $(VENV_READY) pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable '.[dev]'
	@touch "$@" "$(TEST_READY)" "$(DEMO_READY)"

# Runs the candidates, as a pyenv or conda shim may exist for a Python that is not there; ensurepip is a package of
# its own on Debian and Ubuntu.
$(VENV_READY):
	@found=""; for python in "$(PYTHON)" python3; do \
		if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
			found="$$python"; break; \
		fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "No usable Python: expected $(PYTHON), or a python3 of version 3.11 or newer, with the modules venv" >&2; \
		echo "and ensurepip. Install it (Debian, Ubuntu: apt-get install python3.11 python3.11-venv), or name one:" >&2; \
		echo "make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; \
		exit 1; \
	fi; \
	if "$(VENV_PYTHON)" -m pip --version >/dev/null 2>&1; then \
		echo "Using the environment that is in $(VENV)"; \
	else \
		echo "Creating $(VENV) with $$("$$found" --version) ($$(command -v "$$found"))"; \
		"$$found" -m venv --clear "$(VENV)"; \
	fi
	@touch "$@"
