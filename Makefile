# The commands a developer types; `make demo` is the one a stranger types first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TEST_STAMP := $(VENV)/.installed-test
# One thread per test process: two of them share two cores. A GPU has tests of its own.
PYTEST := OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest
SHAPES := --jaxtyping-packages=medcl.objectives,medcl.encoders,medcl.methods,medcl.monitoring,beartype.beartype

.PHONY: demo test test-slow test-gpu lint format bench clean

demo: $(STAMP)
	$(BIN)/medcl demo

test: lint
	$(PYTEST) -n 2 --dist loadgroup -m "not slow and not gpu" $(SHAPES)

# Without the shape checks: torch cannot compile a network that carries them.
test-slow: $(TEST_STAMP)
	$(PYTEST) -m "slow"

test-gpu: $(TEST_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "gpu"

lint: $(TEST_STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/pyright

format: $(TEST_STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(TEST_STAMP)
	for script in benchmarks/[!_]*.py; do $(BIN)/python $$script || exit 1; done

# torch first and pinned: a plain `torch` may bring gigabytes of CUDA libraries.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[codecs]"
	touch $@

$(TEST_STAMP): pyproject.toml constraints.txt tests/oracles.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[test]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement tests/oracles.txt
	touch $(STAMP) $@

clean:
	rm -rf $(VENV) build dist *.egg-info
