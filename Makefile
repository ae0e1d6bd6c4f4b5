# This file only names commands. `make` alone lists them.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
export VENV

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-slow bench lint types format schema clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*  ## (.*)/  make \1\t\2/' | expand -t 20

venv: $(STAMP)  ## install everything into $(VENV), pinned

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV) && $(BIN)/pip install -c constraints.txt -e '.[all]'
	@touch $@

demo: $(STAMP)  ## sample slices -> corpus -> pretraining -> probes -> report, into demo/
	bash sample/demo.sh

test: lint types  ## lint, types and all tests but the slow ones
	$(BIN)/pytest -q -n $(JOBS) --dist loadfile

test-slow: $(STAMP)  ## the tests that take minutes
	$(BIN)/pytest -q -m 'slow and not gpu'

bench: $(STAMP)  ## measure speed, into benchmarks/speed.md (PARTS="load step"; PEERS=1 installs peers)
	$(BIN)/python -m tests.benchmarks $(PARTS) $(if $(PEERS),--peers .venv-peers)

lint: $(STAMP)  ## ruff and codespell
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell

types: $(STAMP)  ## mypy --strict
	$(BIN)/mypy

format: $(STAMP)  ## rewrite the code in the house format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

schema: $(STAMP)  ## write the JSON Schemas in manifests/schema/ anew
	$(BIN)/python manifests/schema/generate.py

clean:  ## remove caches and demo/ (not the virtual environment)
	rm -rf demo dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks .coverage
