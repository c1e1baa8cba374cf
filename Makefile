# make run: the whole pipeline on synthetic reviews. make test: every test. Both set themselves up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(VENV)/.installed
ALL := $(VENV)/.installed-all
# Modules that no run imports.
UNUSED := /(tests?|testing|sympy|networkx|transformers/models)/
SAMPLE := data/sample
SAMPLE_ROWS := 20000
PYTEST := $(BIN)/python -m pytest
ALONE_LOG := $(VENV)/test-alone.log

.PHONY: run test test-all test-fast lint docs install sample clean help
.DEFAULT_GOAL := help

help:  ## Say what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | sort

run: $(RUN) sample  ## Run the pipeline on the sample, making both if they are not there
	@$(BIN)/raymill run

sample: $(RUN)  ## Make 20,000 synthetic reviews in data/sample
	@$(BIN)/raymill data synth --rows $(SAMPLE_ROWS) --out $(SAMPLE) --if-missing

# In two processes, of which each waits for Ray or servers half of the time. What the other one says comes at the end.
define tests
	@$(PYTEST) $(2) -m "not sharing$(1)" > $(ALONE_LOG) 2>&1 & alone=$$!; trap "kill $$alone" INT TERM; \
	$(PYTEST) $(2) -m "sharing$(1)"; sharing=$$?; \
	wait $$alone; alone=$$?; cat $(ALONE_LOG); exit $$((sharing | alone))
endef

test: $(ALL)  ## Run the tests, all but the longest
	$(call tests, and not nightly)

test-all: $(ALL)  ## Run every test, properties on many examples
	$(call tests,,--hypothesis-profile=many)

test-fast: $(ALL)  ## Run the tests that need neither Ray nor servers
	@$(PYTEST) -m "not slow and not nightly"

lint: $(ALL)  ## Check style, types and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

docs: $(ALL)  ## Write docs/reference.md from the settings and the commands
	@$(BIN)/python -m flows.cli.reference

install: $(ALL)  ## Make .venv and install everything, pinned

# pip compiles every module of every package, one after the other, which is a third of the installation: they are
# compiled on all cores instead, without those that no run imports.
define install
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 12) else "Python 3.11 or 3.12 is needed, this is %d.%d: make PYTHON=python3.11 ..." % sys.version_info[:2])'
	@echo "Installing into $(VENV), once; about $(2) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable ".$(1)"
	@$(BIN)/python -m compileall -q -j 0 -x '$(UNUSED)' $(VENV)/lib > /dev/null 2>&1 || true
	@PREFECT_HOME=$(CURDIR)/data/prefect $(BIN)/prefect server database upgrade --yes > /dev/null
endef

$(RUN): pyproject.toml constraints.txt
	$(call install,,90 seconds)
	@touch $(RUN)

$(ALL): pyproject.toml constraints.txt
	$(call install,[dev],2 minutes)
	@touch $(RUN) $(ALL)

# data/forgotten.json, data/receipts and data/rehearsals.json stay: without them forgotten users would be read again.
WRITTEN := snapshots runs reports docs prefect sample score predictions models services retrain rehearsal drill

clean:  ## Remove the environment and all that runs have written, but whom to forget
	rm -rf $(VENV) $(addprefix data/,$(WRITTEN)) mlruns/mlflow.db mlruns/artifacts
