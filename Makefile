# make demo: a small study of self-modeling networks on scikit-learn's digits.   make test: the test suite.
# Each first installs what it needs into .venv; a second call reuses it. PYTHON=... chooses the interpreter (>= 3.10).
PYTHON ?= python3
PYTEST_ARGS ?= -n 3 --dist loadfile --no-loadscope-reorder
BIN = .venv/bin

.PHONY: demo test test-weekly test-lowest lint docs clean

demo: .venv/demo
	$(BIN)/python scripts/reproduce.py --tasks digits --scale quick

# three files of tests at a time (some of them wait for a server, or for a client to give up), with one thread each: the
# tests' networks are tiny, and two threads were seen to be many times slower on them
test: .venv/installed
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest $(PYTEST_ARGS)

# the slow and the weekly tests too: hours of a core
test-weekly: .venv/installed
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -m '' $(PYTEST_ARGS)

# with the oldest versions that pyproject.toml claims, on the oldest Python: another environment, of 6.5 GB
PYTHON_LOWEST ?= python3.10
test-lowest: .venv-lowest/installed
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} .venv-lowest/bin/python -m pytest $(PYTEST_ARGS)

.venv-lowest/installed: pyproject.toml
	$(PYTHON_LOWEST) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest --resolution lowest-direct --editable '.[dev]'
	touch $@

# the documentation site, in build/site; warnings are errors. It needs Python 3.11 or newer.
docs: .venv/installed
	$(BIN)/python scripts/build_site.py

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "PYTHON=$(PYTHON): Python 3.10 or newer is needed")'
	$(PYTHON) -m venv .venv

.venv/demo: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[reproduce]'
	touch $@

.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch .venv/demo $@

clean:
	rm -rf .venv .venv-lowest runs build
