# Each target sets up .venv by itself, once, and again only when locks/ or pyproject.toml changes. It holds saqlib, and by
# checkout.pth also study, which is run from the checkout and is in no wheel.
# Paths are relative and scripts are called as modules, so that the folder's own path may hold spaces.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv/bin/python
INSTALL := $(VENV) -m pip install --disable-pip-version-check
LOCKS := locks/numerics.lock locks/report.lock locks/site.lock locks/tools.lock
PYTEST_OPTIONS ?=

# What the pipeline starts (python, papermill) is the environment's own.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env data quick reproduce device check verify site test test-all bench lab notebooks lock clean clean-store

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

env: .venv/.stamp  ## set up .venv from locks/ (about 5 minutes, 7 GB)

# pip is called twice if need be: among so many packages a mirror may fail at one, and the second call goes on there.
.venv/.stamp: $(LOCKS) pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed; name one: make PYTHON=...")'
	@echo "Setting up .venv: about 5 minutes, once."
	"$(PYTHON)" -m venv .venv
	$(INSTALL) $(addprefix --requirement ,$(LOCKS)) || $(INSTALL) $(addprefix --requirement ,$(LOCKS))
	$(INSTALL) --no-deps --no-build-isolation --editable .
	@$(VENV) -c 'import sysconfig; open(sysconfig.get_path("purelib") + "/checkout.pth", "w").write("../../../..\n")'
	@touch $@
	@for file in $^; do if [ "$$file" -nt $@ ]; then touch -r "$$file" $@; fi; done  # one dated in the future

data: env  ## fetch and verify both datasets (data/, 110 MB)
	$(VENV) -m study.download

quick: env  ## the pipeline without ablations on real images in minutes, in a scratch folder
	$(VENV) -m study.run quick

reproduce: env  ## the whole pipeline in full; writes results/
	$(VENV) -m study.run reproduce

device: env  ## class and map of each network on emulated microcontrollers; writes results/device/ and its table
	$(VENV) -m study.run device

check: env  ## whether results/ belong to the code, numbers and notebooks as they stand
	$(VENV) -m study.run check

verify: env  ## compare results/, written anew by reproduce, with the committed ones
	$(VENV) -m study.run verify

# What the site takes from npm, once: ONNX Runtime for browsers, and fonts.
site/node_modules/.stamp: site/package.json site/package-lock.json
	@if ! command -v npm >/dev/null; then echo "npm is needed once, for the networks in the browser: install Node.js 18 or later"; exit 1; fi
	npm ci --prefix site
	@touch $@

site: env site/node_modules/.stamp  ## the reading copy, from committed results: build/site/index.html (needs npm, once)
	$(VENV) -m study.site.build

# A worker takes a file at a time, whose tests share its fixtures.
PYTEST := $(VENV) -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder $(PYTEST_OPTIONS)
NBVAL := --nbval --nbval-current-env --nbval-sanitize-with tests/nbval.cfg

test: env  ## lint and the tests that a reader runs: science, report, one tiny pipeline (5 minutes)
	$(VENV) -m ruff check .
	$(PYTEST) $(NBVAL) tests/unit tests/smoke notebooks/01_data.ipynb notebooks/explore.ipynb

test-all: env  ## all tests: also faults, clusters, compilers, browsers, and every notebook's outputs compared
	$(VENV) -m ruff check .
	$(PYTEST) $(NBVAL) tests notebooks

.venv/.stamp-bench: .venv/.stamp
	$(INSTALL) --editable ".[bench]"
	@touch $@

bench: .venv/.stamp-bench  ## time the training step beside its peers
	$(VENV) -m benchmarks

lab: export JUPYTER_CONFIG_PATH := $(CURDIR)/.jupyter$(if $(JUPYTER_CONFIG_PATH),:$(JUPYTER_CONFIG_PATH))
lab: env  ## open the notebooks in JupyterLab, which asks for neither news nor updates
	$(VENV) -m jupyterlab $(if $(filter 0,$(shell id -u)),--allow-root) notebooks

notebooks: env  ## run every notebook at its defaults, keep the outputs as the reference, renew prose in results/notebooks/
	$(VENV) -m study.run refresh
	$(VENV) -m study.run readable

lock: env  ## resolve pyproject.toml anew into locks/
	$(VENV) .ci/lock.py

clean:  ## remove scratch folders and caches (.venv, data, models and the store of trained and scored seeds stay)
	if [ -d build ]; then find build -mindepth 1 -maxdepth 1 ! -name store -exec rm -rf {} +; fi
	rm -rf .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

clean-store:  ## remove the store: every seed is trained and scored anew
	rm -rf build/store
