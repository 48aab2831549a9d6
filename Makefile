# Set-up, tests and the demo; `make help` lists the targets. Everything lands in .venv/, nothing outside this folder.
PYTHON ?= python3.11
BIN := .venv/bin
SOURCES := $(shell find pipeline model cli -type f -not -name '*.pyc') pyproject.toml README.md LICENSE

.DEFAULT_GOAL := help
.PHONY: help install demo test test-gpu lint types docs docs-check check bench lock clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

.venv/dependencies: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "alexprep needs Python 3.11 or newer: make PYTHON=python3.x"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@touch $@

.venv/package: .venv/dependencies $(SOURCES)
	rm -rf build alexprep.egg-info dist
	$(BIN)/python -m build --quiet --wheel --no-isolation --outdir dist
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall dist/alexprep-*.whl
	rm -rf build alexprep.egg-info
	@touch $@

install: .venv/package ## .venv/ with the pinned dependencies and the package

demo: .venv/package ## the whole job on drawn pictures, under five minutes on two cores
	$(BIN)/alexprep demo --out demo

test: .venv/package ## the tests, on the installed wheel
	$(BIN)/python -m pytest -m "not gpu"

test-gpu: .venv/package ## the tests that need an NVIDIA GPU
	$(BIN)/python -m pytest -m gpu

lint: .venv/dependencies ## ruff (style and format), hadolint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint Dockerfile

types: .venv/package ## mypy, on the installed wheel
	$(BIN)/mypy --package alexprep.pipeline --package alexprep.model --package alexprep.cli

docs-check: .venv/package ## docs/cli.md says what the commands say
	$(BIN)/cog --check docs/cli.md

docs: .venv/package ## the command line's page, from its own help
	$(BIN)/cog -r docs/cli.md

check: lint types docs-check test ## everything that must pass before a commit

bench: .venv/package ## the figures of docs/performance.md, on this machine
	$(BIN)/python benchmarks/response_norm.py
	$(BIN)/python benchmarks/throughput.py

lock: ## requirements.lock again, from pyproject.toml
	rm -rf .lock-venv && $(PYTHON) -m venv .lock-venv
	.lock-venv/bin/python -m pip install --quiet torch==2.13.0
	.lock-venv/bin/python -m pip install --quiet "pip>=25.1"
	.lock-venv/bin/python -m pip install --quiet ".[cuda12]" --group dev build setuptools wheel
	.lock-venv/bin/python -m pip freeze --exclude alexprep --all | sed -E 's/^torch==([0-9.]+).*/torch==\1/; /^pip==/d' > requirements.lock
	rm -rf .lock-venv build alexprep.egg-info

clean: ## all that make has made
	rm -rf .venv build dist alexprep.egg-info demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
