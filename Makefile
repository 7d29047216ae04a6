# `make quickstart` and `make test` set up what they need in .venv, from a Python 3.11 or newer.
# Another interpreter: make test PYTHON=/path/to/python

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUNS ?= runs
WORKERS ?= auto
CHECKED := ntk_train.program,ntk_train.rules,ntk_train.kernel,ntk_train.spectrum,ntk_train.monitor
PLAIN := XLA_FLAGS="--xla_backend_optimization_level=0 $$XLA_FLAGS"
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --jaxtyping-packages=$(CHECKED),beartype.beartype

# The first interpreter that runs and is new enough; only asked when .venv has to be made.
FIND_PYTHON = for p in $(PYTHON) python3 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo "$$p"; exit 0; }; done; \
	echo "No Python 3.11 or newer found: install one, or say which with PYTHON=..." >&2; exit 1

.PHONY: quickstart test test-all lint format types unit clean

# A new folder each time: a finished run would be found and not trained again.
quickstart: $(STAMP)
	$(BIN)/python -m ntk_train.main --config=quickstart \
		--workdir=$(RUNS)/quickstart-$$(date +%Y%m%d-%H%M%S)

test: lint types unit

# .pre-commit-config.yaml calls these targets, so that it cannot differ from CI.
lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(STAMP)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: $(STAMP)
	$(BIN)/mypy

# The shapes and types in the core's signatures are checked while the tests run. Most of their time
# goes into compiling, so that it is done without XLA's optimisations.
unit: $(STAMP)
	$(PLAIN) $(PYTEST) -m "not heavy"

# All tests, and the laws once more with XLA's optimisations, which may be wrong too.
test-all: lint types
	$(PLAIN) $(PYTEST)
	$(PYTEST) -m "not heavy" tests/kernel/test_laws.py

clean:
	rm -rf $(VENV) $(RUNS) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(STAMP): pyproject.toml
	@python=$$($(FIND_PYTHON)) && echo "Setting up $(VENV) with $$($$python --version)" && \
		$$python -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@
