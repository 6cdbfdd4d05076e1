# The two commands of a fresh clone: `make sweep`, which changes no file that git has, and `make test`. `make check` is everything that CI runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Two processes that take from each other's list at the end, so that neither waits. A GPU is for one at a time.
TWO := -n 2 --dist worksteal
# The same, but that the tests of a file, which share what took long to make, go to one of both.
BY_FILE := -n 2 --dist loadfile
# The tests start Python some hundred times, and each would compile all of the project's files anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: sweep test test-gpu matrix lint format gate package docs check clean

sweep: $(INSTALLED)
	$(BIN)/fusetune sweep --M 128 --K 1024 --N 512 --output .fusetune/configs

test: $(INSTALLED)
	TRITON_INTERPRET=1 $(BIN)/pytest $(TWO) tests/interpret
	$(BIN)/pytest $(TWO) tests/unit tests/compile
	$(BIN)/pytest $(BY_FILE) tests/e2e
	$(BIN)/pytest tests/gpu

# On a machine with a GPU: the tests that need one.
test-gpu: $(INSTALLED)
	$(BIN)/pytest tests/gpu

# What relies on Triton's private parts, under each Triton that is supported; downloads three of them, 2.5 GB.
matrix: $(INSTALLED)
	$(BIN)/python .ci/matrix.py

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python .ci/words.py

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Every shipped config still compiles for its GPU, without a spill, within shared memory, and no worse than it is pinned.
gate: $(INSTALLED)
	$(BIN)/fusetune gate --static configs

# Wheel and sdist build, install into fresh environments, and their commands run there.
package: $(INSTALLED)
	.ci/package

# The pages of docs/ and of the code as site/index.html; what leads nowhere is an error.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

check: lint gate package docs test

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .fusetune site

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

$(VENV)/.docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]' || \
	  { echo "make docs: pip did not get the packages of the extra 'docs', as it says above; nothing else needs them" >&2; exit 1; }
	touch $@
