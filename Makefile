# make figures   set up .venv and regenerate figures/synthetic/ (quick profile)
# make test      set up .venv and run the tests, the committed notebooks among them
# make test-full the slow tests as well, and every benchmark once
# make notebooks execute the committed notebooks in place, before a commit
# make lint      style; make clean removes what the other targets made
#
# PYTHON=python3.12      the interpreter that .venv is made from
# PIP_ARGS=...           more arguments for pip, such as --extra-index-url of PyTorch's builds without CUDA
# TEST_JOBS=2            test processes at once

PYTHON ?= python3
VENV ?= .venv
TEST_JOBS ?= 2
PIP_ARGS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CONSTRAINTS := $(wildcard constraints.txt)
PYTEST := $(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile --nbval-lax --nbval-current-env

.PHONY: figures test test-full notebooks lint clean

figures: $(STAMP)
	$(BIN)/xraykit run --profile quick

test: $(STAMP)
	$(PYTEST) -m "not slow" tests notebooks/[0-9]*.ipynb

test-full: $(STAMP)
	$(PYTEST) tests notebooks/[0-9]*.ipynb
	set -e; for benchmark in tests/benchmarks/bench_*.py; do echo "== $$benchmark"; $(BIN)/python $$benchmark; done

notebooks: $(STAMP)
	$(BIN)/xraykit run --inplace

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) runs build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find xraykit tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Repeated only when what is to be installed changed, or the last installation did not finish.
$(STAMP): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "xraykit needs Python 3.11 or newer, and '$(PYTHON)' is: $$($(PYTHON) --version 2>&1)"; \
	  echo "Install one and name it: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python && $(BIN)/python -m pip --version >/dev/null 2>&1 || \
	  $(PYTHON) -m venv --clear $(VENV) || { \
	  echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv"; \
	  rm -rf $(VENV); exit 1; }
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS) $(CONSTRAINTS:%=-c %) -e '.[dev]'
	@touch $@
