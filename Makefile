# The whole interface of a contributor. Every target makes what it needs, from nothing but `python3` (3.11 or later).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CODE := $(wildcard resilient tests benchmarks examples conftest.py)
# An environment for each Python that is measured: `make bench PYTHON=python3.13` does not find that of another one.
BENCH := .venv-bench$(patsubst python%,-%,$(filter python3.%,$(notdir $(PYTHON))))

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test coverage check lint types imports docs examples bench peers lab torture golden lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## See it work: a small system in which things fail
	$(BIN)/resilient demo

# The tests that go down every branch of the decisions. Counting slows a test down to a quarter, so only these are.
MACHINES := tests/machines tests/balancing tests/lab/world tests/policies/test_adaptive_limit.py

test: check ## Everything that CI runs: the checks, then the tests, and that they go down every branch of the decisions
	$(BIN)/python -m tests.servers.chromium # installs it where there is none
	$(BIN)/python -m tests.servers.dnsmasq # likewise
	$(BIN)/python -m tests.servers.etcd # likewise, into a cache
	$(BIN)/python -m tests.servers.faketime
	$(BIN)/python -m tests.servers.valkey
	$(BIN)/python -m tests.servers.zookeeper
	$(BIN)/python -m tests.servers.postgres
	$(BIN)/python -m tests.servers.pgbouncer # likewise
	$(BIN)/pytest -n 2
	$(BIN)/pytest -n 2 --quiet --cov=resilient/machines --cov-fail-under=100 $(MACHINES)

coverage: $(VENV)/.dev ## All tests again, slowly, and what of the code they go through
	$(BIN)/pytest -n 2 --cov --cov-report=term

check: lint types imports docs examples ## All static checks, the strict build of the docs, and every example in them

lint: $(VENV)/.dev ## ruff: rules and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.dev ## mypy and pyright, both strict
	$(BIN)/mypy $(CODE)
	$(BIN)/pyright

imports: $(VENV)/.dev ## import-linter: the rings
	$(BIN)/lint-imports --no-logo --no-cache

docs: $(VENV)/.dev ## Build the documentation into site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

examples: $(VENV)/.dev ## Run every example of the README, the docs and the docstrings
	$(BIN)/pytest README.md docs resilient

bench: $(BENCH)/.bench ## Measure the overhead of a call, ours and our peers', of a request over sockets, the lab, discovery, balancing, and intents
	$(BENCH)/bin/python -m benchmarks.overhead
	$(BENCH)/bin/python -m benchmarks.http_client
	$(BENCH)/bin/python -m benchmarks.lab
	$(BENCH)/bin/python -m benchmarks.discovery
	$(BENCH)/bin/python -m benchmarks.balancing
	$(BENCH)/bin/python -m benchmarks.idempotency
	$(BENCH)/bin/python -m benchmarks.intents

peers: .venv-peers/.peers ## Ask the other idempotency libraries what ours is asked; write the page
	.venv-peers/bin/python -m benchmarks.idempotency_peers --markdown --json benchmarks/results/idempotency-peers.json > benchmarks/results/idempotency-peers.md

lab: $(VENV)/.dev ## Play every scenario of the lab with ten seeds; check bands, simulator and golden report
	$(BIN)/python -m resilient.lab.theory
	$(BIN)/python -m benchmarks.lab_suite --page site-lab/report.html

torture: $(VENV)/.dev ## Torment every store in every mode for eight minutes, and write down what became of effects and replies
	$(BIN)/python -m tests.torture --write
	$(BIN)/python -m tests.asgi.large --mib 1024

golden: $(VENV)/.dev ## Write the lab's golden report, its catalogue, the check of its simulator and the defaults' tables anew
	$(BIN)/python -m resilient.lab.theory --markdown > benchmarks/results/theory.md
	$(BIN)/python -m benchmarks.lab_suite --write --page site-lab/report.html
	$(BIN)/python -m benchmarks.defaults --write

lock: .venv-lock/.lock ## Pin the newest versions of all dependencies in requirements/
	$(COMPILE) pyproject.toml --extra config --extra demo --extra dns --extra httpx2 --extra kubernetes --extra lab --extra postgres --extra redis --extra zookeeper --group dev -o requirements/dev.txt
	$(COMPILE) pyproject.toml --extra demo --group build -c requirements/dev.txt -o requirements/demo.txt
	$(COMPILE) pyproject.toml --group bench -c requirements/dev.txt -o requirements/bench.txt
	$(COMPILE) pyproject.toml --group peers -o requirements/peers.txt

clean: ## Remove all that was made, the environments too
	rm -rf .venv .venv-bench* .venv-lock site site-lab dist .coverage* .hypothesis .*_cache

# One lock serves every platform and every Python from 3.11 on.
COMPILE = .venv-lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	--custom-compile-command 'make lock'

# A stamp in an environment says that it holds what its lock and pyproject.toml ask for.
# The project itself is installed editable, with the pinned build backend.
define install
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet -r $<
	$(@D)/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@
endef

$(VENV)/.dev: requirements/dev.txt pyproject.toml
	$(install)

$(VENV)/.demo: requirements/demo.txt pyproject.toml
	$(install)

$(BENCH)/.bench: requirements/bench.txt pyproject.toml
	$(install)

.venv-peers/.peers: requirements/peers.txt pyproject.toml
	$(install)

.venv-lock/.lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet uv
	touch $@
