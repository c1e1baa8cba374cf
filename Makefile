# make run: the whole pipeline on synthetic reviews. make test: every test. Both set themselves up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SAMPLE := data/sample
SAMPLE_ROWS := 20000

.PHONY: run test test-all test-fast lint docs install sample clean help
.DEFAULT_GOAL := help

help:  ## Say what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | sort

run: $(STAMP) sample  ## Run the pipeline on the sample, making both if they are not there
	@$(BIN)/raymill run

sample: $(STAMP)  ## Make 20,000 synthetic reviews in data/sample
	@$(BIN)/raymill data synth --rows $(SAMPLE_ROWS) --out $(SAMPLE) --if-missing

test: $(STAMP)  ## Run the tests, all but the longest
	@$(BIN)/python -m pytest -m "not nightly"

test-all: $(STAMP)  ## Run every test, properties on many examples
	@$(BIN)/python -m pytest --hypothesis-profile=many

test-fast: $(STAMP)  ## Run the tests that need neither Ray nor servers
	@$(BIN)/python -m pytest -m "not slow and not nightly"

lint: $(STAMP)  ## Check style, types and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

docs: $(STAMP)  ## Write docs/reference.md from the settings and the commands
	@$(BIN)/python -m flows.cli.reference

install: $(STAMP)  ## Make .venv and install everything, pinned

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 12) else "Python 3.11 or 3.12 is needed, this is %d.%d: make PYTHON=python3.11 ..." % sys.version_info[:2])'
	@echo "Installing into $(VENV), once; about 2 minutes ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@PREFECT_HOME=$(CURDIR)/data/prefect $(BIN)/prefect server database upgrade --yes > /dev/null
	@touch $(STAMP)

clean:  ## Remove the environment and everything that runs have written
	rm -rf $(VENV) data/snapshots data/runs data/reports data/docs data/prefect data/sample mlruns/mlflow.db mlruns/artifacts
