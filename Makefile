# Everything runs in .venv inside this checkout; each target sets up what it needs.
#   make demo          see the neurons of a real language model
#   make test          the tests
#   PYTHON=python3.12 make test    with another Python
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
TORCH := torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
BENCH_VENV := .venv-bench
BENCH_BIN := $(BENCH_VENV)/bin
PIP_INSTALL := -m pip install --disable-pip-version-check --quiet --no-input

# A stamp is a file that says "this is installed"; it is redone when pyproject.toml has changed since.
TORCH_READY := $(VENV)/.torch-ready
DEMO_READY := $(VENV)/.demo-ready
DEV_READY := $(VENV)/.dev-ready
RAY_READY := $(VENV)/.ray-ready
BENCH_READY := $(BENCH_VENV)/.bench-ready

.PHONY: help demo test test-slow check lint types imports docs pictures bench reproduce-task reproduce-mono format clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

demo: $(DEMO_READY) ## find, watch and switch off the neurons of a small language model; writes demo-output/
	$(BIN)/neuronwise demo

test: $(DEV_READY) ## the tests, without the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadfile

test-slow: $(RAY_READY) ## the long checks, Ray among them
	$(BIN)/python -m pytest -q -m slow

check: lint types imports docs ## lint, format, types, import direction between the rooms, docs

lint: $(DEV_READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(DEV_READY)
	$(BIN)/mypy

imports: $(DEV_READY)
	$(BIN)/lint-imports

docs: $(DEV_READY) ## build the documentation into docs/_build/html, warnings are errors
	$(BIN)/python -m sphinx -q -W --keep-going -n -b html docs docs/_build/html

pictures: $(DEMO_READY) ## run the demo, and draw the pictures of README and docs from its results
	$(BIN)/neuronwise demo
	$(BIN)/python docs/pictures.py demo-output

bench: $(BENCH_READY) ## measure speed and memory, rewrite docs/benchmarks.md (some hours)
	$(BENCH_BIN)/python benchmarks/import_time.py
	$(BENCH_BIN)/python benchmarks/overhead.py
	$(BENCH_BIN)/python benchmarks/peers.py
	$(BENCH_BIN)/python benchmarks/attribution.py
	$(BENCH_BIN)/python benchmarks/attribution_agreement.py
	$(BENCH_BIN)/python benchmarks/location.py
	$(BENCH_BIN)/python benchmarks/edits.py
	$(BENCH_BIN)/python benchmarks/selection.py --peers
	$(BENCH_BIN)/python benchmarks/neuronseek.py
	$(BENCH_BIN)/python benchmarks/neuron_layers.py
	$(BENCH_BIN)/python benchmarks/estimators.py
	$(BENCH_BIN)/python benchmarks/genetic.py
	$(BENCH_BIN)/python benchmarks/train_overhead.py
	$(BENCH_BIN)/python benchmarks/tables.py

reproduce-task: $(DEV_READY) ## the published experiments on task neurons; needs the data, see reproduction/README.md (hours)
	$(BIN)/python reproduction/task_synthetic.py
	$(BIN)/python reproduction/task_public.py
	$(BIN)/python reproduction/task_feynman.py
	$(BIN)/python reproduction/tables_task.py
	$(BIN)/python reproduction/pictures.py

reproduce-mono: $(DEV_READY) ## the published experiments on monosemanticity; needs the data, see reproduction/README.md (hours)
	$(BIN)/python reproduction/mono_flow.py
	$(BIN)/python reproduction/mono_inhibitors.py
	$(BIN)/python reproduction/mono_loop.py
	$(BIN)/python reproduction/mono_scale.py
	$(BIN)/python reproduction/tables_mono.py
	$(BIN)/python reproduction/pictures.py

format: $(DEV_READY) ## let ruff sort, fix and format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove everything that was built, the environments included
	rm -rf $(VENV) $(BENCH_VENV) docs/_build build dist demo-output htmlcov .coverage
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

define python_is_new_enough
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "neuronwise needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Install a newer one and say which: PYTHON=python3.12 make ..." >&2; exit 1; }
endef

# torch comes first and alone: its build (CPU or which CUDA) is chosen here, and nothing later may change it.
$(TORCH_READY):
	$(python_is_new_enough)
	$(PYTHON) -m venv $(VENV)
	@echo "Installing $(TORCH) into $(VENV) ..."
	$(BIN)/python $(PIP_INSTALL) '$(TORCH)'
	@touch $@

$(DEMO_READY): $(TORCH_READY) pyproject.toml
	@echo "Installing neuronwise for the demo ..."
	$(BIN)/python $(PIP_INSTALL) '$(TORCH)' -e '.[hf]'
	@touch $@

$(DEV_READY): $(TORCH_READY) pyproject.toml
	@echo "Installing neuronwise and its development tools ..."
	$(BIN)/python $(PIP_INSTALL) '$(TORCH)' -e '.[dev]'
	@touch $(DEMO_READY) $@

$(RAY_READY): $(DEV_READY)
	$(BIN)/python $(PIP_INSTALL) '$(TORCH)' -e '.[dev,ray]'
	@touch $@

# The peers bring many packages of their own, so they live apart.
$(BENCH_READY): pyproject.toml benchmarks/requirements.txt
	$(python_is_new_enough)
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_BIN)/python $(PIP_INSTALL) '$(TORCH)'
	$(BENCH_BIN)/python $(PIP_INSTALL) '$(TORCH)' -e '.[hf,fast]' -r benchmarks/requirements.txt
	@touch $@
