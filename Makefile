# Each target sets up .venv by itself, once, and again only when requirements.lock or pyproject.toml changes.
# Paths are relative and scripts are called as modules, so that the folder's own path may hold spaces.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv/bin/python
INSTALL := $(VENV) -m pip install --disable-pip-version-check
PYTEST_OPTIONS ?=

# What the pipeline starts (python, papermill) is the environment's own.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env data quick reproduce check verify test bench lab notebooks lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

env: .venv/.stamp  ## set up .venv from requirements.lock (about 5 minutes, 7 GB)

# pip is called twice if need be: among so many packages a mirror may fail at one, and the second call goes on there.
.venv/.stamp: requirements.lock pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed; name one: make PYTHON=...")'
	@echo "Setting up .venv: about 5 minutes, once."
	"$(PYTHON)" -m venv .venv
	$(INSTALL) --requirement requirements.lock || $(INSTALL) --requirement requirements.lock
	$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

data: env  ## fetch and verify both datasets (data/, 110 MB)
	$(VENV) -m saqlib.data

quick: env  ## the whole pipeline on real images in minutes, in a scratch folder
	$(VENV) -m saqlib.pipeline quick

reproduce: env  ## the whole pipeline in full; writes results/
	$(VENV) -m saqlib.pipeline reproduce

check: env  ## whether results/ belong to the code, numbers and notebooks as they stand
	$(VENV) -m saqlib.pipeline check

verify: env  ## compare results/, written anew by reproduce, with the committed ones
	$(VENV) -m saqlib.verify

test: env  ## lint, unit, property and pipeline tests; every notebook's outputs compared
	$(VENV) -m ruff check .
	$(VENV) -m pytest --nbval --nbval-current-env --nbval-sanitize-with tests/nbval.cfg $(PYTEST_OPTIONS) tests notebooks

.venv/.stamp-bench: .venv/.stamp
	$(INSTALL) --editable ".[bench]"
	@touch $@

bench: .venv/.stamp-bench  ## time the training step beside its peers
	$(VENV) -m benchmarks

lab: env  ## open the notebooks in JupyterLab
	$(VENV) -m jupyterlab notebooks

notebooks: env  ## run every notebook at its defaults and keep the outputs as the reference
	$(VENV) -m saqlib.notebooks refresh
	$(VENV) -m dvc repro source

lock: env  ## resolve pyproject.toml anew into requirements.lock
	$(VENV) .ci/lock.py

clean:  ## remove scratch folders and caches (.venv, data and models stay)
	rm -rf build .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
