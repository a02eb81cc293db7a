# Every target sets up what it needs: the first one creates .venv, a second run does no network work.
.DEFAULT_GOAL := help
SHELL := bash

PYTHON ?= python3
LISTEN ?= $(or $(TEXTSERVE_LISTEN),127.0.0.1:50051)
WORKERS ?= 1
MODEL ?=
ARGS ?=
FILES ?= bench.json
PROTO_OUT ?= protos

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
PLOTS_READY := $(VENV)/ready-plots
SOURCES := $(wildcard client gateway worker tests bench examples tutor)
PROTOS := $(shell cd protos && find . -name '*.proto' | sed 's,^\./,,' | sort)
# One compute thread for each: threads of several processes that spin for each other crawl.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile
# In quotes of the shell, for a folder may have a space in its name, or a quote.
MODEL_FLAG := $(if $(MODEL),--model '$(subst ','\'',$(MODEL))')

PEERS_TO_INSTALL = $(sort $(filter transformers-serve llama.cpp openvino,$(PEERS:transformers-serve-continuous=transformers-serve)))

.PHONY: help setup serve demo test test-long chaos soak check lint format types proto proto-check bench peers plots gpu-day tutor clean

help: ## Show this help.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

setup: $(READY) ## Create .venv with everything that the other targets need.

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[gateway,worker,dev]'
	touch $@

$(PLOTS_READY): $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	touch $@

serve: setup ## Serve the bundled model (MODEL=folder or hub name, WORKERS=1, LISTEN=127.0.0.1:50051, ARGS=more flags).
	$(BIN)/textserve-gateway --listen $(LISTEN) --workers $(WORKERS) $(MODEL_FLAG) $(ARGS)

demo: setup ## Start two workers, make calls of every kind, cancel one, stop; exit 0 only if all is right (MODEL=...).
	$(BIN)/python -m examples.demo $(MODEL_FLAG) $(ARGS)

test: setup ## Run the tests, a process for each core (ARGS='-k name').
	$(PYTEST) $(ARGS)

test-long: setup ## Run the long tests alone: more of what `make test` samples, some minutes (ARGS='-k Qwen').
	$(PYTEST) -m long $(ARGS)

chaos: setup ## Kill, stop, hang and attack what serves, for four minutes; a table (ARGS='--only mixed --seed 7').
	$(BIN)/python -m tests.chaos $(ARGS)

soak: setup ## The same for hours, with as much as the bars ask for (ARGS='--only soak').
	$(BIN)/python -m tests.chaos --long $(ARGS)

check: lint types proto-check test test-long chaos ## Run everything that CI runs.

lint: setup ## Check style and formatting.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup ## Format code and protos.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/buf format --write

types: setup ## Check types, with mypy and with pyright.
	$(BIN)/mypy $(SOURCES)
	$(BIN)/pyright --pythonpath $(BIN)/python

proto: setup ## Generate the Python stubs from the protos.
	PATH="$(BIN):$$PATH" python -m grpc_tools.protoc --proto_path=protos --python_out=$(PROTO_OUT) \
	  --grpc_python_out=$(PROTO_OUT) --mypy_out=quiet:$(PROTO_OUT) --mypy_grpc_out=quiet:$(PROTO_OUT) $(PROTOS)

proto-check: setup ## Lint the protos, compare them with the settled contract, check that the stubs are current.
	./scripts/proto-check

bench: setup ## Measure, and print the tables of docs/performance.md (ARGS=--json).
	status=0; for name in floor engine sampling gateway startup; do $(BIN)/python -m bench.$$name $(ARGS) || status=1; done; exit $$status

plots: $(PLOTS_READY) ## Draw docs/performance/*.svg from what benches print with ARGS=--json (FILES='a.json b.json').
	$(BIN)/python -m bench.plots $(FILES) --out docs/performance

peers: setup ## Install other servers beside this one, and measure against them; half an hour (PEERS='llama.cpp openvino' for those alone).
	-$(if $(PEERS),$(if $(PEERS_TO_INSTALL),bench/install-peers $(PEERS_TO_INSTALL),true),bench/install-peers)
	$(BIN)/python -m bench.peers $(PEERS:%=--peer %) $(ARGS)

gpu-day: ## Test and measure on a GPU, ten minutes at most (PYTHON=one with torch, Triton, transformers, bitsandbytes, pytest).
	$(PYTHON) -m bench.gpu_day $(ARGS)

tutor: setup ## Train the bundled model again (under 40 minutes on 2 cores).
	$(BIN)/python -m tutor.train
	$(BIN)/python -m tutor.evaluate --write

clean: ## Remove .venv and everything generated, but not the committed stubs.
	rm -rf $(VENV) .peers build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
