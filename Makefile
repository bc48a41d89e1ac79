# make demo    install, make a sample slide, segment it
# make test    install what the tests need, run them
# make check   format, lint, types, tests and documentation: what has to pass before a change is handed in
# make bench   speed, memory and seams on this machine, beside other tools (some minutes; leave the machine alone)

PYTHON ?= python3.11
VENV   ?= .venv
DEMO   ?= demo

BIN := $(VENV)/bin
# Python compiles what it imports, and keeps it; compiling all of it first would take a minute more.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-compile -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test lint check bench install

help:
	@sed -n 's/^# //p' Makefile

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# What is installed is remembered in files, so that a second call starts at once.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing wsi-espnet into $(VENV) (two or three minutes the first time)"
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing wsi-espnet and what its tests need into $(VENV) (three minutes the first time)"
	$(PIP) -e ".[dev]"
	@touch $(VENV)/.installed $@

$(VENV)/.installed-bench: $(VENV)/.installed
	@echo "installing what is compared with"
	$(PIP) -e ".[bench]"
	@touch $@

install: $(VENV)/.installed-dev

$(DEMO)/colon.svs: | $(VENV)/.installed
	$(BIN)/wsi-espnet sample colon --out $(DEMO)

demo: $(VENV)/.installed $(DEMO)/colon.svs
	$(BIN)/wsi-espnet segment $(DEMO)/colon.svs --out $(DEMO)/out --overwrite
	@echo
	@echo "Look at $(DEMO)/out/overview.png; the mask is the OME-Zarr beside it."

# The window's tests are a run of their own: see tests/napari/pytest.ini. After them come the others in three processes,
# file by file, in the order of tests/conftest.py: two would leave a core idle while tests wait for what they killed.
# Those of inference, which mostly compile, start at once, beside the window's, which keep one core busy; what they say
# is shown at the end.
test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/inference >.test-inference.log 2>&1 & inference=$$!; \
	$(BIN)/python -m pytest -c tests/napari/pytest.ini tests/napari && \
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --ignore=tests/inference; others=$$?; \
	wait $$inference; compiled=$$?; cat .test-inference.log; test $$others = 0 -a $$compiled = 0

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# README and docs are checked by tests/test_docs.py.
check: lint test

bench: $(VENV)/.installed-bench
	$(BIN)/python -m wsi_espnet.bench
