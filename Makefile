# Every target makes .venv when it is missing or when the dependencies changed, and reuses it otherwise.
PYTHON := .venv/bin/python
PROFILE ?= quick

.PHONY: run test lint notebooks slides picture backbone benchmark site links

run: .venv/installed  ## all notebooks, then the table and a page to look at
	$(PYTHON) -m mvtec_ad run --profile $(PROFILE)

test: .venv/installed
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder  # one thread each: the numbers do not depend on the machine

lint: .venv/installed
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

notebooks: .venv/installed  ## rebuild and execute notebooks/*.ipynb from notebooks/source/*.py
	$(PYTHON) notebooks/build.py

slides: .venv/installed  ## build/slides/*.html: lectures with notes; npm brings reveal.js and KaTeX, once
	$(PYTHON) course/slides.py

picture: .venv/installed  ## the pictures of the README, from synthetic images
	$(PYTHON) assets/gallery.py
	$(PYTHON) -m mvtec_ad fit padim --category bottle --source synthetic --out transfer/picture.zip
	$(PYTHON) -m mvtec_ad detect transfer/picture.zip data/synthetic/bottle/test/*/00[0-2].png \
		--heat-maps none --animation assets/padim.gif
	$(PYTHON) -m mvtec_ad fit autoencoder --category bottle --source synthetic --steps 200 --out transfer/redrawn.zip
	$(PYTHON) assets/redrawn.py transfer/redrawn.zip

backbone: .venv/installed  ## train the carried weights again (resumes); ROOT= and IMAGENET= are reported beside
	$(PYTHON) -m mvtec_ad backbone $(if $(ROOT),--root $(ROOT)) $(if $(IMAGENET),--imagenet $(IMAGENET))

benchmark: WEIGHTS ?= random
benchmark: .venv/installed .venv-anomalib/installed  ## metrics, PaDiM and PatchCore beside anomalib's (half an hour); ROOT= and WEIGHTS=
	$(PYTHON) benchmarks/metrics.py
	$(PYTHON) benchmarks/padim.py $(if $(ROOT),--root $(ROOT)) --weights $(WEIGHTS) --anomalib .venv-anomalib/bin/python
	$(PYTHON) benchmarks/patchcore.py $(if $(ROOT),--root $(ROOT)) --weights $(WEIGHTS) --anomalib .venv-anomalib/bin/python

SPHINX = $(PYTHON) docs/stage.py build/site-source && \
	$(PYTHON) -m sphinx -W --keep-going -q -a -j auto -c docs -d build/doctrees build/site-source

site: .venv/site slides  ## the course's site in build/site/, which no page leaves for the internet
	$(SPHINX) build/site
	@echo "open build/site/index.html"

links: .venv/site  ## whether what the site links to on the internet answers
	$(SPHINX) -b linkcheck build/links

# The site's libraries are installed for it only.
.venv/site: .venv/installed requirements/site.txt
	$(PYTHON) -m pip install --quiet --editable ".[site]"
	@touch $@

# anomalib is installed for the benchmark only; it finds torch and the rest in .venv
.venv-anomalib/installed: .venv/installed
	python3 -m venv .venv-anomalib
	$(PYTHON) -c "import site; print(site.getsitepackages()[0])" > \
		$$(.venv-anomalib/bin/python -c "import site; print(site.getsitepackages()[0])")/shared.pth
	.venv-anomalib/bin/python -m pip install --quiet anomalib
	@touch $@

.venv/installed: requirements.txt $(wildcard requirements/*.txt) pyproject.toml
	@echo "installing into .venv (2 minutes, 8 GB) ..."
	python3 -m venv .venv
	$(PYTHON) -m pip install --quiet --editable ".[dev]"
	@touch $@
