# Every target works from a fresh clone with Python >= 3.11, bash, make and a network to the package index.

SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
DEMO := runs/demo
SEED ?= 0
MUTANTS := $(or $(TMPDIR),/tmp)/partial-truth-mutants

.PHONY: help setup setup-dev demo test test-slow test-oldest mutants format lint types check tables bench gpu-check backbone clean-demo

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.runtime  ## create .venv with what the scripts need

setup-dev: $(VENV)/.dev  ## the same, with the tools for tests and checks

$(VENV)/bin/python:  # .venv may be a link to a folder elsewhere, which is then filled
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; say PYTHON=...")'
	@place=$$(readlink -f $(VENV)); $(PYTHON) -m venv "$$place" || $(PYTHON) -m virtualenv "$$place" || \
	  { echo "error: $(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }

$(VENV)/.runtime: requirements.txt | $(VENV)/bin/python
	@echo 'installing, a few minutes the first time ...'
	@$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements.txt requirements-dev.txt | $(VENV)/bin/python
	@echo 'installing, a few minutes the first time ...'
	@$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@ $(VENV)/.runtime

demo: setup  ## train BCE and CoNeS on the embedded dataset and compare them (a few minutes on a laptop)
	$(RUN) main_BCE.py --dataset digits --partial_rate 0.4 --seed 0 --output $(DEMO)/bce --resume
	$(RUN) main_CoNeS.py --dataset digits --partial_rate 0.4 --seed 0 --output $(DEMO)/cones --resume
	$(RUN) compare.py $(DEMO)/bce $(DEMO)/cones --output $(DEMO)

clean-demo:  ## forget the demo's runs, so that `make demo` trains again
	rm -rf $(DEMO)

test: setup-dev  ## run the tests (a few minutes on 2 cores, no network or GPU)
	$(RUN) -m pytest -q -n 2 --dist worksteal tests

test-slow: setup-dev  ## run the slow tests: two processes, fresh interpreters, exports, large backbones (a quarter of an hour)
	$(RUN) -m pytest -q -n 2 --dist worksteal -m slow tests

.venv-oldest/.done: requirements-oldest.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)) and "Python 3.11 or 3.12 is needed; say PYTHON=...")'
	@$(PYTHON) -m venv .venv-oldest || $(PYTHON) -m virtualenv .venv-oldest
	@echo 'installing, a few minutes the first time ...'
	@.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-oldest.txt
	@touch $@

test-oldest: .venv-oldest/.done  ## run the tests on the lowest versions that requirements.txt admits
	.venv-oldest/bin/python -m pytest -q -n 2 --dist worksteal tests

mutants: setup-dev  ## put small changes into copies of the code, SEED=0, and count those that `make test` notices (an hour)
	$(RUN) -m tools.mutants cover --work $(MUTANTS)
	$(RUN) -m tools.mutants plan --work $(MUTANTS) --seed $(SEED)
	$(RUN) -m tools.mutants run --work $(MUTANTS) --seed $(SEED)

format: setup-dev  ## format the code
	$(RUN) -m ruff format . && $(RUN) -m ruff check --fix .

lint: setup-dev  ## check style and formatting
	$(RUN) -m ruff check . && $(RUN) -m ruff format --check .

types: setup-dev  ## check types
	$(RUN) -m mypy

tables: setup  ## write the generated tables of settings, methods, heads, datasets and figures, and the notebook
	$(RUN) -m tools.tables && $(RUN) -m tools.notebook && $(RUN) -m tools.figures

check: lint types test  ## everything that must hold before a change lands

bench: setup-dev  ## time our code against the published code's way, side by side
	$(RUN) -m benchmarks.run

gpu-check: setup-dev  ## on a machine with one GPU: tests, CPU and GPU side by side, waits and speed, in five minutes
	$(RUN) -m benchmarks.gpu

backbone: setup  ## make the small pretrained backbone of `digits` again, from scenes of letters
	$(RUN) main_BCE.py --dataset letters --seed 0 --output runs/letters --resume
	$(RUN) -m models.backbones runs/letters/best.pth models/weights/scenenet_letters.safetensors
