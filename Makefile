# `make` alone prints the commands. Everything runs in .venv, which is made from pyproject.toml and constraints.txt.
PYTHON ?= python3
# Empty is the recipe that the run was last made from, recipes/demo.yaml for the demo.
RECIPE ?=
# Empty is the name of the recipe's file: recipes/other.yaml goes to runs/other, and without a recipe it is the demo.
RUN ?=
IMAGES ?= data/fashion-mnist/val
BIN := .venv/bin
EDGE := $(BIN)/python -m pipeline
STAGES_OF = $(if $(RECIPE), --recipe $(RECIPE))$(if $(RUN), --run $(RUN))
NAME = $(or $(RUN),$(basename $(notdir $(RECIPE))),demo)

.DEFAULT_GOAL := help
.PHONY: help setup export test test-fast lint train report predict models bench bench-train bench-gpu curves zoo quantization prove doctor bundle clean

help: ## print these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 21
	@echo "  variables: RECIPE=$(or $(RECIPE),(the run's own; recipes/demo.yaml for the demo)) RUN=$(or $(RUN),$(NAME) (named after RECIPE)) IMAGES=$(IMAGES)"

setup: .venv/installed ## make .venv with everything a host needs

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or later is needed, $$($(PYTHON) -V) found: make PYTHON=python3.11 ..."; exit 2; }
	@echo "installing into .venv (several GB with torch; a few minutes)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -c constraints.txt -e '.[dev]'
	@touch $@

export: setup ## train, export, quantize, build, check, measure and report
	@$(EDGE) run$(STAGES_OF)

train: setup ## train only
	@$(EDGE) train$(STAGES_OF)

report: setup ## print the trade-off table again
	@$(EDGE) report$(STAGES_OF)

predict: setup ## classes of IMAGES, or of their pixels, with the recommended engine
	@$(EDGE) predict --run $(NAME) $(IMAGES)

bundle: setup ## one folder that a Jetson or GPU owner copies: it builds, checks and measures there
	@$(EDGE) bundle --run $(NAME)

zoo: setup ## forty networks of timm through the whole chain, a row each in docs/networks.md (over night on two cores; resumes)
	@$(BIN)/python tests/bench/zoo.py

quantization: setup ## a sweep: every policy × method on four networks; the tables of docs/quantization.md (98 runs: long; resumes)
	@$(BIN)/python tests/bench/quantization.py

prove: setup ## every model, precision and GPU architecture built ahead of time, no GPU needed: results/prove.json (hours; goes on where it was)
	@$(BIN)/python tests/bench/prove.py

models: setup ## parameters and MACs of every network, beside the papers'
	@$(EDGE) models

bench: setup ## t2t_vit_14 at 224 px: literal unfold against ours against INT8; how busy predict keeps an engine; ours beside other tools
	@$(BIN)/python tests/bench/soft_split.py
	@$(BIN)/python tests/bench/predict.py
	@$(BIN)/python tests/bench/peers/compare.py

bench-train: setup ## training steps at 224 px: images/s and memory, ours against literal unfold, processes, input pipeline
	@$(BIN)/python tests/bench/train.py

# Without setup: torch, timm, numpy and OpenCV are enough, and a GPU server has them in a Python of its own.
bench-gpu: ## PyTorch on this machine's NVIDIA GPU: forward passes and training, nine minutes, goes on where it was: docs/gpu.md
	@$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) tests/bench/gpu.py

curves: setup ## the demo's loss from one process and from two: runs/curves/curves.csv, curves.png (about half an hour on two cores)
	@$(BIN)/python tests/bench/training_curves.py

doctor: setup ## what is installed, what this machine can build and run
	@$(EDGE) doctor

test: setup ## the tests that CI runs (about twenty minutes on two cores)
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal

test-fast: setup ## the tests for while you edit: all but those that train, export, build or open pages for more than a moment
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow"

lint: setup ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

clean: ## remove runs/ and the unpacked images (not .venv)
	rm -rf runs data/fashion-mnist data/emoji data/*.partial
