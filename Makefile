PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# One more than the cores of a small machine: tests wait for processes and for the clock. On two cores, four took 7 % longer.
TEST_PROCESSES ?= 3
ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "make run and make demo honour HOST, PORT, DATABASE_URL and DATA_DIR; make test honours TEST_DATABASE_URL and ARGS (for pytest)."

.PHONY: run
run: $(VENV)/.local ## serve on http://127.0.0.1:8080 with an embedded PostgreSQL
	@exec $(BIN)/python -m service

.PHONY: demo
demo: $(VENV)/.local ## serve a campus with 200 students in .data/demo, and show three calls worth trying
	@DATA_DIR=$${DATA_DIR:-.data}/demo DATABASE_URL= exec $(BIN)/python -m service demo --serve

# Docker, Podman or Buildah. The same commit gives the same image, whenever it is built, as long as its base image is the same.
CONTAINER_TOOL ?= $(shell command -v docker >/dev/null && docker info >/dev/null 2>&1 && echo docker || command -v podman || command -v buildah)
IMAGE ?= enrollment-service
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null)

.PHONY: image
image: ## build the container image enrollment-service with docker, podman or buildah
	@[ -n "$(CONTAINER_TOOL)" ] || { echo "An image needs docker, podman or buildah." >&2; exit 1; }
	@case "$(notdir $(CONTAINER_TOOL))" in \
	docker) exec docker buildx build --load --tag $(IMAGE) $(ARGS) . ;; \
	*) exec $(CONTAINER_TOOL) build --format docker --timestamp $(SOURCE_DATE_EPOCH) --tag $(IMAGE) $(ARGS) . ;; \
	esac

.PHONY: psql
psql: $(VENV)/.local ## open psql on the database of make run, whether or not it is running; pass arguments to psql in ARGS
	@exec $(BIN)/python -m service psql -- $(ARGS)

# Without bytecode, each of the processes that the suite starts compiles the same modules again.
test coverage: export PYTHONDONTWRITEBYTECODE :=

.PHONY: test
test: $(VENV)/.dev ## run the whole test suite against a real PostgreSQL
	@$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal -q $(ARGS)

.PHONY: check
check: lint test ## run lint and the whole test suite, as CI does

.PHONY: coverage
coverage: $(VENV)/.dev ## run the whole test suite and show the lines that it misses, also in processes of the service
	@$(BIN)/python -m pytest -n $(TEST_PROCESSES) -q --cov --cov-report=term-missing:skip-covered $(ARGS)

.PHONY: lint
lint: $(VENV)/.dev ## check style, spelling, types, imports, migrations and the Dockerfile
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@git ls-files -z | xargs -0 $(BIN)/codespell
	@$(BIN)/mypy --no-error-summary
	@report=$$($(BIN)/lint-imports --no-logo) || { echo "$$report"; exit 1; }
	@report=$$($(BIN)/squawk --config .squawk.toml $(filter-out %.rollback.sql,$(wildcard migrations/*.sql migrations/registry/*.sql)) 2>&1) || { echo "$$report"; exit 1; }
	@$(BIN)/hadolint --config .hadolint.yaml Dockerfile
	@echo "lint: OK"

# tests/test_clients.py uses these packages and skips its tests without them.
.PHONY: clients
clients: tests/clients/node_modules/.package-lock.json ## install the linters of the API document and the generator of its TypeScript client

tests/clients/node_modules/.package-lock.json: tests/clients/package-lock.json
	@echo "installing npm packages into tests/clients/node_modules"
	@cd tests/clients && npm ci --silent --no-audit --no-fund --ignore-scripts
	@touch $@

PEERS := tests/benchmarks/peers

.PHONY: bench
bench: $(VENV)/.dev .bench/fastapi_sqlalchemy/.done .bench/fastapi_asyncpg/.done $(PEERS)/express_pg/node_modules/.package-lock.json | bench-tools ## compare the service with its peers; installs Debian and npm packages
	@$(BIN)/python -m tests.benchmarks $(ARGS)

.PHONY: faults
faults: $(VENV)/.dev | bench-tools ## expose the service to crashes, attacks and overload; name trials in ARGS
	@$(BIN)/python -m tests.trials $(ARGS)

.PHONY: bench-tools
bench-tools:
	@missing=; \
	command -v wrk >/dev/null || missing="wrk"; \
	command -v npm >/dev/null || missing="$$missing nodejs npm"; \
	[ -n "$$missing" ] || exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing the Debian packages: $$missing"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	else \
		echo "The benchmarks need: $$missing. On Debian and Ubuntu: sudo apt-get install $$missing" >&2; exit 1; \
	fi

# Each Python peer has a virtual environment of its own, locked like that of the service.
.bench/%/.done: $(PEERS)/%/requirements.txt | $(BIN)/python
	@echo "installing the packages of the peer $* into .bench/$*"
	@$(BIN)/python -m venv .bench/$*
	@.bench/$*/bin/python -m pip install -qq --disable-pip-version-check --no-input --no-deps --require-hashes --only-binary=:all: -r $<
	@touch $@

$(PEERS)/express_pg/node_modules/.package-lock.json: $(PEERS)/express_pg/package-lock.json | bench-tools
	@echo "installing the npm packages of the peer express_pg"
	@cd $(@D)/.. && npm ci --silent --no-audit --no-fund
	@touch $@

.PHONY: format
format: $(VENV)/.dev ## format the code
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format .

# The lock covers every system and Python version that pyproject.toml allows. The smaller files are subsets of dev.txt.
COMPILE := UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate

.PHONY: lock
lock: $(VENV)/.dev ## lock the newest compatible versions with their hashes
	@$(COMPILE) --upgrade --extra embedded --extra dev --output-file requirements/dev.txt pyproject.toml
	@$(COMPILE) --constraint requirements/dev.txt --extra embedded --output-file requirements/local.txt pyproject.toml
	@$(COMPILE) --constraint requirements/dev.txt --output-file requirements/runtime.txt pyproject.toml
	@$(COMPILE) --constraint requirements/dev.txt --extra traces --output-file requirements/traces.txt pyproject.toml
	@echo setuptools | $(COMPILE) --upgrade --output-file requirements/build.txt -
	@git --no-pager diff --stat -- requirements

# One package is available as source only. It is pure Python, and its build dependency is locked too.
# The lock files are complete. Without --no-deps, older versions of pip look for the newest version of a package that another one
# needs with an extra, and refuse it because it is not locked.
# A terminal shows the latest line of pip; if pip fails, its whole output is shown.
install = { $(INSTALL) $(1) 2>&1; echo $$? >$(VENV)/install.status; } | tee $(VENV)/install.log | \
	if [ -t 1 ]; then awk '{ printf "\r\033[K%.79s", $$0; fflush() } END { printf "\r\033[K" }'; else cat >/dev/null; fi; \
	[ "$$(cat $(VENV)/install.status)" = 0 ] || { cat $(VENV)/install.log >&2; exit 1; }
INSTALL := $(BIN)/python -m pip install --progress-bar=off --disable-pip-version-check --no-input --no-deps --require-hashes --only-binary=:all:
INSTALL_FROM_SOURCE := --no-binary=openapi-ui-bundles --no-build-isolation

$(VENV)/.local: requirements/local.txt requirements/build.txt | $(BIN)/python
	@echo "installing the packages of the service into $(VENV): about a minute, 140 MB"
	@$(call install,-r requirements/build.txt)
	@$(call install,$(INSTALL_FROM_SOURCE) -r $<)
	@touch $@

$(VENV)/.dev: requirements/dev.txt requirements/build.txt | $(BIN)/python
	@echo "installing the development packages into $(VENV)"
	@$(call install,-r requirements/build.txt)
	@$(call install,$(INSTALL_FROM_SOURCE) -r $<)
	@touch $@ $(VENV)/.local

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is required. Name one with make $(MAKECMDGOALS) PYTHON=python3.13" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "The Python module venv is not installed. On Debian and Ubuntu: sudo apt-get install python3-venv" >&2; exit 1; }
	@echo "creating a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
