# Every target makes .venv when it is missing or when the dependencies changed, and reuses it otherwise.
PYTHON := .venv/bin/python
PROFILE ?= quick

.PHONY: run test lint notebooks picture benchmark

run: .venv/installed  ## all notebooks, then the table and a page to look at
	$(PYTHON) -m mvtec_ad run --profile $(PROFILE)

test: .venv/installed
	$(PYTHON) -m pytest

lint: .venv/installed
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

notebooks: .venv/installed  ## rebuild and execute notebooks/*.ipynb from notebooks/source/*.py
	$(PYTHON) notebooks/build.py

WEIGHTS ?= random
picture: .venv/installed  ## the picture of the README, from drawn images; WEIGHTS=PATH takes other weights
	$(PYTHON) -m mvtec_ad fit padim --category bottle --source rendered --weights $(WEIGHTS) --out transfer/picture.zip
	$(PYTHON) -m mvtec_ad detect transfer/picture.zip data/rendered/bottle/test/*/00[0-2].png \
		--heat-maps none --animation assets/padim.gif

benchmark: .venv/installed
	$(PYTHON) benchmarks/metrics.py

.venv/installed: requirements.txt pyproject.toml
	@echo "installing into .venv (2 minutes, 8 GB) ..."
	python3 -m venv .venv
	$(PYTHON) -m pip install --quiet --editable ".[dev]"
	@touch $@
