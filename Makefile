# `make demo` and `make test` need nothing but Python 3.11 or newer with venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo test run lint bench docs clean

help:
	@echo "make demo    install, start the service, replay real captures, show what SQL says"
	@echo "make test    install, then run linters, type checks and all tests"
	@echo "make run     run the service with the embedded store"
	@echo "make bench   decode rates and UDP-to-rows rate on this machine"
	@echo "make lint    ruff and mypy alone"
	@echo "make docs    render docs/columns.md from schemas/"

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; set PYTHON=python3.12 or the like"; exit 1; }
	@echo "installing into $(VENV) (about a minute the first time) ..."
	@$(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed; on Debian: apt-get install python3-venv"; exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[embedded,test]'
	@touch $@

demo: $(STAMP)
	@$(BIN)/python deploy/demo.py

run: $(STAMP)
	@$(BIN)/vmflow run

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest

bench: $(STAMP)
	$(BIN)/python -m bench

docs: $(STAMP)
	$(BIN)/python -m schemas.render --docs

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
