# Two commands do everything on a fresh machine: `make demo` and `make test`.
# Needed: Python 3.11 or 3.12 (PYTHON=... chooses one), GNU make, bash.

SHELL := bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
CODE := core datasets domains pipelines mimkit tests

# One thread per test worker and as many workers as cores, at most 8 (each loads torch).
JOBS ?= $(shell cores=$$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN); echo $$((cores < 8 ? cores : 8)))
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest

# albumentations asks the network on import otherwise; DeepSpeed's kernels are compiled on first use.
export NO_ALBUMENTATIONS_UPDATE := 1
export DS_BUILD_OPS := 0

.PHONY: help install demo test slow gpu bench pictures check style types imports limits tree format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(READY) ## create .venv and install the package with pinned dependencies

$(READY): pyproject.toml setup.py constraints.txt .ci/install
	@PYTHON="$(PYTHON)" .ci/install $(VENV)

demo: $(READY) ## the whole chain on the Landsat-8 pixels inside the package, in minutes
	$(BIN)/mimkit demo

test: $(READY) ## all tests but the slow ones and those that need a GPU
	$(PYTEST) -n $(JOBS) --dist worksteal

slow: $(READY) ## the slow tests
	$(PYTEST) -m "slow and not gpu" --timeout 3600

gpu: $(READY) ## the tests that need a GPU
	$(PYTEST) -m gpu --timeout 3600

bench: $(READY) ## measure speed and memory against other implementations
	$(BIN)/mimkit benchmark

pictures: $(READY) ## the reconstructions on the method pages, about a minute of one core each
	$(BIN)/python tests/tools/method_pictures.py runs/pictures

check: style types imports limits ## all four checks of the code (`make -k check` shows all faults)

style: $(READY) ## ruff: faults, docstrings, complexity, layout
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(READY) tree ## basedpyright
	$(BIN)/basedpyright

imports: $(READY) tree ## import-linter: nothing imports upward
	cd build/tree && ../../$(BIN)/lint-imports --cache-dir ../cache ../../pyproject.toml

limits: $(READY) ## length of files and functions, blocks written twice
	$(BIN)/python tests/tools/limits.py $(CODE)

tree: $(READY)
	@$(BIN)/python tests/tools/link_tree.py

format: $(READY) ## put the code into the one layout
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove what was built, not the environment
	rm -rf build dist ./*.egg-info .pytest_cache .ruff_cache .hypothesis
