# `make run` starts the server, `make test` checks everything a change needs. Another Python has an environment of
# its own: `make test PYTHON=python3.13 VENV=.venv-3.13`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
JOBS   ?= logical

.DEFAULT_GOAL := help

help:          ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# Nothing is installed that a lock does not name with its hash: no sdist, which would fetch what builds it,
# and no build environment of its own for this project.
PIP_LOCKED := -m pip install --quiet --require-hashes --only-binary=:all:

$(VENV)/.run: requirements.lock requirements-build.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP_LOCKED) -r requirements.lock -r requirements-build.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-index --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.lock
	$(BIN)/python $(PIP_LOCKED) -r requirements-dev.lock
	@touch $@

install: $(VENV)/.run    ## the server and the admin command in .venv

run: install   ## start the server on the embedded default
	$(BIN)/ankisyncd

check: $(VENV)/.dev      ## lint, format, types and import rules, in seconds
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev     ## format the code, and mend what lint can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

# One process for each core; each starts what its tests share. Tests that fail here, run alone by their name.
PARALLEL := -n $(JOBS) --maxprocesses 8 --dist worksteal

test: check              ## what a change must pass: check, and the tests in parallel (JOBS=2)
	$(BIN)/python -m pytest $(PARALLEL)

coverage: $(VENV)/.dev   ## the same tests, and the lines of app and storage that they run: no fewer than the floor
	@mkdir -p .cache/coverage
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report=term

test-thorough: $(VENV)/.dev    ## what of the tests is not needed at every change; CI runs it
	$(BIN)/python -m pytest $(PARALLEL) -m "thorough and not slow and not clients and not bench"

test-clients: $(VENV)/.dev clients   ## the scenarios with older Anki clients beside the newest
	$(BIN)/python -m pytest -m clients

test-all: $(VENV)/.dev clients   ## also the slow and thorough tests, and those with older Anki clients
	$(BIN)/python -m pytest -m "slow or thorough or clients" --ignore=tests/terraform --ignore=tests/docker

fuzz: $(VENV)/.dev       ## 100,000 inputs to a live server: heads, bodies, forms, messages, zips, databases
	$(BIN)/python -m tests.fuzz

# The scenarios again, with three servers on one store: in turn, drawn at random, and without a table. Then the
# tables of what a fault does to each call, and of what a sync costs, against what the documents say.
test-cloud: $(VENV)/.dev      ## the scenarios with real clients on three servers that share one store; faults, costs
	for servers in cloud cloud-random cloud-s3; do \
	  $(BIN)/python -m pytest tests/conformance --server=$$servers -m "not slow and not clients and not bench and not one_server" || exit 1; \
	done
	$(BIN)/python -m pytest tests/contracts/test_aws_faults.py tests/conformance/test_cloud_costs.py -m slow

# moto is one reading of AWS: the suites of heads and objects once more on others. Says what is left out, and why.
test-engines: $(VENV)/.dev    ## heads on dynalite (npm), heads and objects on radosgw (Debian), where they are installed
	$(BIN)/python -m pytest tests/contracts tests/storage -m engine --session-timeout=1200

# The user's own pages in a real browser, with real clients beside it. Says what is left out, and why.
test-browser: $(VENV)/.dev    ## the pages in Chromium (Debian), where it is installed
	$(BIN)/python -m pytest tests/browser -m browser
	$(BIN)/python -m pytest tests/browser/test_versions.py tests/browser/test_account.py --server=cloud-s3 -m "browser and not one_server"

FIRST ?= 0
SEEDS ?= 5000
simulate: $(VENV)/.dev        ## many more runs of the simulation: SEEDS=5000, from FIRST=0
	$(BIN)/python -m tests.simulation --first $(FIRST) --seeds $(SEEDS)

bench-cloud: $(VENV)/.dev     ## time of syncs and throughput with the latencies of AWS
	$(BIN)/python -m tests.bench.cloud

# Clients of other times need libraries of their own: an environment for each, from pinned versions.
clients: $(VENV)/.dev
	$(BIN)/python -m tests.conformance.environments

bench: $(VENV)/.dev      ## this server beside the official one, and which goals are reached (half an hour)
	$(BIN)/python -m tests.bench.ankibench --official --ours --cache .cache/bench --json .cache/bench.json

bench-spread: $(VENV)/.dev    ## what a sync costs when its requests go to any worker, and to any server (needs nginx)
	$(BIN)/python -m tests.bench.spread --cache .cache/bench

# Terraform, images and proxies. What a test needs and the machine has not, it names and leaves out; with
# INFRA_STRICT=1 it fails.
INFRA := .venv-infra/.made .venv-checkov/.made

.venv-%/.made: requirements-%.lock
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python $(PIP_LOCKED) -r requirements-$*.lock
	@touch $@

test-infra: $(VENV)/.dev $(INFRA)    ## Terraform, the image and the proxies, all on this machine
	$(BIN)/python -m pytest tests/terraform tests/docker -m "slow or not slow"

image:         ## the image for amd64 and arm64 in one OCI archive in dist (needs buildah)
	@mkdir -p dist
	docker/image amd64 arm64 -o dist/ankisyncd-image.tar

release: .venv-infra/.made    ## all that a release consists of, with checksums, in dist (needs buildah)
	docker/release

monitoring:    ## dashboard, alert rules and tables in docker/monitoring, from the list of metrics
	$(BIN)/python docker/monitoring/generate.py

lock:          ## resolve the dependencies again (needs uv and npm)
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-strip-extras -o requirements.lock
	uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-strip-extras -c requirements.lock -o requirements-dev.lock
	uv pip compile --group build --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-strip-extras -o requirements-build.lock
	uv pip compile --group infra --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-strip-extras -o requirements-infra.lock
	uv pip compile --group checkov --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-strip-extras -o requirements-checkov.lock
	npm install --package-lock-only --omit-lockfile-registry-resolved --no-audit --no-fund --prefix tests/support/npm

clean:         ## remove what make made
	rm -rf .venv .venv-* .cache build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

.PHONY: help install run check format test coverage test-thorough monitoring simulate fuzz bench bench-spread test-clients test-all test-cloud test-engines test-browser bench-cloud clients test-infra image release lock clean
