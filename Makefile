# Set-up, tests and the demo; `make help` lists the targets. Packages are installed into .venv/ (and .venv-examples/), and nothing outside this folder.
PYTHON ?= python3.11
BIN := .venv/bin
EXAMPLES := .venv-examples/bin
SOURCES := $(shell find pipeline model cli -type f -not -name '*.pyc' -not -name '*.so') pyproject.toml setup.py README.md LICENSE

.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast fuzz test-gpu test-examples lint types docs docs-check check bench bench-gpu lock clean

help: ## list of the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-13s %s\n", $$1, $$2}'

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

install: .venv/package ## set-up: .venv/ with the pinned dependencies and the package

demo: .venv/package ## the whole job on drawn pictures, in under five minutes on two cores
	$(BIN)/alexprep demo --out demo

test: .venv/package ## all tests without a GPU, on the installed wheel
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -m "not gpu" -n auto --maxprocesses 4 --dist loadfile --durations 15

# The sources as the package: links to the folders, which Python finds before the installed wheel, and kernels built beside their C source.
.venv/editable: .venv/dependencies setup.py pyproject.toml $(shell find pipeline model -name '*.[ch]')
	rm -rf .editable && mkdir -p .editable/alexprep
	for package in pipeline model cli; do ln -s ../../$$package .editable/alexprep/$$package; done
	ln -s ../../cli/experiment .editable/alexprep/experiment
	$(BIN)/python setup.py --quiet build_ext --inplace
	rm -rf build alexprep.egg-info
	@touch $@

test-fast: .venv/package-once .venv/editable ## the tests that start no process, on the sources themselves, in under a minute
	ALEXPREP_TEST_SHAPES=off OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR)/.editable $(BIN)/python -m pytest -m "not gpu and not process" -n auto --maxprocesses 4 --dist worksteal -q

.venv/package-once: # the wheel is installed once, because version() reads its metadata
	@$(MAKE) --no-print-directory .venv/package
	@touch $@

SECONDS ?= 600
fuzz: .venv/package ## a test of every decoder with damaged images for SECONDS (600); failures are saved in fuzz-found/
	$(BIN)/python -m tests.support.fuzz --seconds $(SECONDS) 2> /dev/null

test-gpu: .venv/package ## the tests that need an NVIDIA GPU
	$(BIN)/python -m pytest -m gpu

.venv-examples/dependencies: examples/requirements.txt requirements.lock | .venv/package
	$(PYTHON) -m venv --clear .venv-examples
	grep -v -E '^(torch|pillow)==' requirements.lock > .venv-examples/constraints.txt
	$(EXAMPLES)/python -m pip install --quiet --disable-pip-version-check --constraint .venv-examples/constraints.txt \
		--requirement examples/requirements.txt "$$(echo dist/alexprep-*.whl)[train]" beartype pytest pytest-timeout
	@touch $@

.venv-examples/package: .venv-examples/dependencies .venv/package
	$(EXAMPLES)/python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall dist/alexprep-*.whl
	@touch $@

test-examples: .venv-examples/package ## the tests of examples with timm and Lightning, of loggers and of other networks, in .venv-examples/
	$(EXAMPLES)/python -m pytest tests/test_examples.py tests/experiment/test_user_network.py tests/experiment/process/test_loggers.py -k "example or logger or hub"

lint: .venv/dependencies ## ruff (style and format), hadolint, and checks of the files in deploy/
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint Dockerfile
	$(BIN)/yamllint --strict --config-data '{extends: relaxed, rules: {line-length: {max: 170}}}' deploy
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml
	$(BIN)/kubernetes-validate --strict --quiet deploy/kubernetes.yaml

types: .venv/package ## mypy, on the installed wheel
	$(BIN)/mypy --package alexprep.pipeline --package alexprep.model --package alexprep.experiment --package alexprep.cli

docs-check: .venv/package ## a check that docs/cli.md agrees with the commands and the site has no broken link
	$(BIN)/cog --check docs/cli.md docs/settings.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

docs: .venv/package ## the site in site/, with docs/cli.md generated from the commands' help
	$(BIN)/cog -r docs/cli.md docs/settings.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

check: lint types docs-check test ## all checks that must pass before a commit

bench: .venv/package ## the figures of docs/performance.md on this machine, with the peers (gigabytes of downloads), in bench/
	mkdir -p bench
	$(BIN)/python benchmarks/response_norm.py
	$(BIN)/python benchmarks/train.py
	$(BIN)/python benchmarks/parallel.py
	$(BIN)/python benchmarks/planning.py
	-$(BIN)/python benchmarks/report.py
	$(BIN)/python benchmarks/kernels.py
	-$(BIN)/python benchmarks/producers.py --install --venvs bench/peers
	$(BIN)/python benchmarks/producers.py --venvs bench/peers --json bench/producers.json
	-$(BIN)/python benchmarks/loaders.py --install --venvs bench/peers
	$(BIN)/python benchmarks/loaders.py --venvs bench/peers --json bench/loaders.json --plot bench/loaders.png

bench-gpu: .venv/package ## images per second on an NVIDIA GPU
	$(BIN)/python benchmarks/gpu.py
	$(BIN)/python benchmarks/train.py --device gpu

lock: ## a new requirements.lock from pyproject.toml
	rm -rf .lock-venv && $(PYTHON) -m venv .lock-venv
	.lock-venv/bin/python -m pip install --quiet torch==2.13.0
	.lock-venv/bin/python -m pip install --quiet "pip>=25.1"
	.lock-venv/bin/python -m pip install --quiet ".[cuda12]" --group dev build setuptools wheel
	.lock-venv/bin/python -m pip freeze --exclude alexprep --all | sed -E 's/^torch==([0-9.]+).*/torch==\1/; /^pip==/d' > requirements.lock
	rm -rf .lock-venv build alexprep.egg-info

clean: ## removal of everything that make has made
	rm -rf .venv .venv-examples .editable build dist site alexprep.egg-info demo bench .mypy_cache .ruff_cache .pytest_cache .hypothesis
