# Everything sets itself up: a bare Python 3.11 or newer is enough. PYTHON=python3.12 picks another one.
PYTHON ?= python3
WORKERS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
RUN ?= runs/quickstart
BIN := .venv/bin

.PHONY: help venv quickstart test lint docs format clean
.DELETE_ON_ERROR:

help:
	@echo "make quickstart   train a small encoder on Python's own documentation, and use it"
	@echo "make test         lint, format check, type check and tests"
	@echo "make docs         build the documentation as a site, in site/"
	@echo "make format       format the code"
	@echo "make venv         only set up .venv"
	@echo "make clean        remove .venv and caches (runs/ stays)"

venv: .venv/.installed

.venv/.installed: pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

quickstart: venv
	$(BIN)/jaxencoder train configs/quickstart.py --run-dir $(RUN)
	$(BIN)/jaxencoder fill-mask $(RUN) -k 3 \
		"Return the length of the [MASK]." \
		"Raise an [MASK] if the file does not exist." \
		"The default value is [MASK]."
	$(BIN)/jaxencoder search $(RUN) pydocs "read the lines of a text file" -k 3
	@echo; printf '%s\n' "The run is in $(RUN). Next:" \
		"  $(BIN)/jaxencoder evaluate $(RUN)" \
		"  $(BIN)/jaxencoder score $(RUN) \"Return a new list.\" \"Return list new a.\"" \
		"  $(BIN)/jaxencoder convert $(RUN) quickstart-transformers --to transformers" \
		"  $(BIN)/jaxencoder train bert_small --data.train your/text/*.jsonl --run-dir runs/small"

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

test: lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --durations 10

docs: .venv/.docs
	$(BIN)/mkdocs build --strict --quiet

.venv/.docs: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache
