# Every target makes .venv when it is missing or when the dependencies changed, and reuses it otherwise.
PYTHON := .venv/bin/python
PROFILE ?= quick

.PHONY: run test lint notebooks benchmark

run: .venv/installed  ## all notebooks, then the table and a page to look at
	$(PYTHON) -m mvtec_ad run --profile $(PROFILE)

test: .venv/installed
	$(PYTHON) -m pytest

lint: .venv/installed
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

notebooks: .venv/installed  ## rebuild and execute notebooks/*.ipynb from notebooks/source/*.py
	$(PYTHON) notebooks/build.py

benchmark: .venv/installed
	$(PYTHON) benchmarks/metrics.py

.venv/installed: requirements.txt pyproject.toml
	@echo "installing into .venv (2 minutes, 8 GB) ..."
	python3 -m venv .venv
	$(PYTHON) -m pip install --quiet --editable ".[dev]"
	@touch $@
