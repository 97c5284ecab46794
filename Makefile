# All set-up is done by the first target that needs it; the second time it takes no time.
# Needs: CPython 3.11 or newer, pip and git. Everything else goes into .venv.

PYTHON ?= python3
# Where torch comes from. For an NVIDIA GPU: make setup TORCH_INDEX=https://download.pytorch.org/whl/cu130
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
REPO ?= .
TASK ?= make the number of bootstrap rounds configurable

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
TORCH = $(shell sed -n 's/^torch==//p' constraints.txt)
PINNED := pyproject.toml constraints.txt
SOURCES := src tests $(wildcard bench recipes) .ci

.DEFAULT_GOAL := help
.PHONY: help setup demo test slow lint format docs clean

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | sort

setup: $(VENV)/.installed-dev ## everything for development, into .venv

demo: $(VENV)/.installed ## learn REPO (default: this checkout), judge, and answer TASK
	$(BIN)/twin improve "$(REPO)" || [ $$? -eq 1 ] # 1: the candidate was refused, an answer too
	$(BIN)/twin --repo "$(REPO)" locate "$(TASK)"

test: $(VENV)/.installed-dev ## the quick tests
	$(BIN)/pytest -m "not slow"

slow: $(VENV)/.installed-dev ## the tests that take more than a few seconds
	$(BIN)/pytest -m slow

lint: $(VENV)/.installed-dev ## ruff check, ruff format --check, mypy
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

format: $(VENV)/.installed-dev ## put the sources into shape
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

docs: $(VENV)/.installed-dev ## write the generated pages of docs/ again
	$(BIN)/python -m twin.cli.docs docs

clean: ## remove .venv and what tools left behind
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The demo needs no test tools. --no-compile: Python compiles what is imported when it is; compiling
# everything ahead takes longer than the rest of the set-up.
$(VENV)/.installed: $(PINNED) | $(VENV)/bin/pip
	$(PIP) install --no-compile -c constraints.txt -e .
	@touch $@

# torch first, by itself and without CUDA, of which the build on PyPI brings gigabytes: from where pip
# looks anyway if the CPU build is there, else from torch's own index. If neither has it, PyPI's is taken.
$(VENV)/.installed-dev: $(PINNED) | $(VENV)/bin/pip
	@$(BIN)/python -c 'import sys, importlib.metadata as m; \
		sys.exit(m.version("torch").partition("+")[0] != "$(TORCH)")' 2>/dev/null || \
		{ [ '$(origin TORCH_INDEX)' = file ] && \
			$(PIP) install --no-compile --no-deps 'torch==$(TORCH)+cpu' 2>/dev/null; } || \
		$(PIP) install --no-compile --no-deps --timeout 30 --retries 2 \
			--index-url '$(TORCH_INDEX)' 'torch==$(TORCH)' || \
		echo 'torch $(TORCH) is not at $(TORCH_INDEX): taking what pip finds' >&2
	$(PIP) install --no-compile -c constraints.txt -e '.[dev]'
	@touch $(VENV)/.installed $@

# --clear: a virtual environment that was interrupted half-way has no pip, and is made anew.
$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'CPython 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ...' >&2; exit 3; }
	$(PYTHON) -m venv --clear $(VENV) || \
		{ echo 'Python lacks its venv module: apt-get install python3-venv' >&2; exit 3; }
