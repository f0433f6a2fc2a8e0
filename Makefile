# Each target does its own set-up. `make help` lists them.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
# The first Python that fits; override with make PYTHON=/path/to/python
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install --no-deps
NAMED_FILE = "$(or $(FILE),$(error Name the file, as in make $@ FILE=mnist.tar.gz))"
CHECKED := flows tasks deployments tests
# A file's tests stay together: they share what its fixtures made.
IN_TWO := -n 2 --dist loadfile

# No telemetry from Prefect's commands; the pipeline itself sees to its own.
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := 0

.DEFAULT_GOAL := help
# The stack, see deployments/README.md; its secrets are made when it is first used.
.PHONY: ui server deploy worker doctor smoke backup restore purge compose-secrets
.PHONY: help run test test-process test-stack test-slow test-all test-pythons check format bench cases seeds recipes screenshots lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

run: $(VENV)/.base ## run the pipeline; options in ARGS, as in make run ARGS="--epochs 6"
	@$(BIN)/python flows/mnist_flow.py $(ARGS)

ui: $(VENV)/.base ## open the UI, logged in; starts the server if there is none
	@exec $(BIN)/python -m deployments ui

server: $(VENV)/.base ## start the Prefect server and its UI, with a password of its own
	@exec $(BIN)/python -m deployments server

deploy: $(VENV)/.base ## register what is deployed, once; for more, make deploy ARGS="docker kubernetes"
	@$(BIN)/python -m deployments deploy $(ARGS)

worker: $(VENV)/.base ## start a worker that runs what is scheduled
	@exec $(BIN)/python -m deployments worker

doctor: $(VENV)/.base ## say what is set up and reachable, what is wrong, and what to do
	@$(BIN)/python -m deployments doctor

smoke: $(VENV)/.base ## train one epoch through server and worker, to see that everything works
	@$(BIN)/python -m deployments smoke

backup: $(VENV)/.base ## keep secrets, database and models, as in make backup FILE=mnist.tar.gz
	@$(BIN)/python -m deployments backup $(NAMED_FILE)

restore: $(VENV)/.base ## make this machine what a backup holds; REPLACE=1 moves aside what is there
	@$(BIN)/python -m deployments restore $(if $(REPLACE),--replace) $(NAMED_FILE)

purge: $(VENV)/.base ## list every folder left on this machine, and delete them; YES=1 does not ask
	@$(BIN)/python -m deployments purge $(if $(YES),--yes)

compose-secrets: $(VENV)/.base ## make the secrets that deployments/compose.yaml needs
	@$(BIN)/python -m deployments compose-secrets

test: $(VENV)/.dev ## the fast tests, in two processes
	$(BIN)/python -m pytest $(IN_TWO) $(ARGS)

test-process: $(VENV)/.dev ## the tests with real processes, signals and the full dataset
	$(BIN)/python -m pytest -m process $(ARGS)

test-stack: $(VENV)/.dev ## the tests with PostgreSQL, server, worker and browser, on two stacks
	$(BIN)/python -m pytest -m stack $(IN_TWO) $(ARGS)

test-slow: $(VENV)/.dev ## both of these, one after the other
	$(BIN)/python -m pytest -m "process or stack" $(ARGS)

test-all: test test-process test-stack ## all tests

test-pythons: $(VENV)/.dev ## the fast tests on the other supported Pythons; PYTHONS=3.13 for one
	$(BIN)/python tests/every_python.py $(PYTHONS)

check: $(VENV)/.dev ## format, lint, types, direction of imports, consistency of what is installed
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pip --disable-pip-version-check check

format: $(VENV)/.dev ## format the code and fix what the linter can
	$(BIN)/ruff format $(CHECKED)
	$(BIN)/ruff check --fix $(CHECKED)

bench: $(VENV)/.dev ## measure speed and memory beside their references
	$(BIN)/python tests/benchmarks/bench.py $(ARGS)

load: $(VENV)/.dev ## what a server loses under load, ours and Prefect's own (twenty minutes)
	@$(BIN)/python tests/benchmarks/server_load.py $(ARGS)

cases: $(VENV)/.dev ## what runs again after a change or damage, beside the obvious Prefect flow
	@$(BIN)/python tests/benchmarks/cases.py

seeds: $(VENV)/.dev ## the accuracy of every recipe over several seeds (a quarter of an hour)
	@$(BIN)/python tests/benchmarks/accuracy.py $(ARGS)

recipes: $(VENV)/.dev ## the candidates for the recipes, on held-out training images (half an hour)
	@$(BIN)/python tests/benchmarks/accuracy.py --held-out $(ARGS)

screenshots: $(VENV)/.dev ## the README's pictures of the UI and the reports, in Chromium
	@$(BIN)/python tests/screenshots.py

lock: $(VENV)/.dev ## renew the two locks from pyproject.toml
	$(BIN)/python -m uv pip compile pyproject.toml --extra build --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-annotate --no-header --quiet -o requirements.lock
	$(BIN)/python -m uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-annotate --no-header --quiet \
		-c requirements.lock -o requirements-dev.lock
	$(BIN)/python -m uv pip compile deployments/requirements.in --no-deps --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-annotate --no-header --quiet \
		-c requirements.lock -o deployments/requirements.lock

clean: ## remove the virtual environment and every tool's cache
	rm -rf $(VENV) .venvs .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip refuses an editable project under --require-hashes, so the lock comes first. The lock is
# complete: --no-deps keeps pip from resolving anything on its own.
$(VENV)/.base: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed. Install one, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version): a minute or two, this once."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --require-hashes -r requirements.lock
	@$(PIP) --no-build-isolation --editable .
	@$(BIN)/prefect server database upgrade -y >/dev/null
	@touch $@

$(VENV)/.dev: $(VENV)/.base requirements-dev.lock deployments/requirements.lock
	@echo "Adding what the tests and checks need."
	@$(PIP) --require-hashes -r requirements-dev.lock -r deployments/requirements.lock
	@touch $@
