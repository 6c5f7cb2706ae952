# Two commands are enough: `make demo` and `make test`. Each sets up what it needs first.
SHELL := /bin/sh
.DEFAULT_GOAL := help

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.apdm-setup
INSTALL = $(PY) -m pip install --disable-pip-version-check --constraint constraints.txt $(PIP_ARGS)
# Any Python from 3.11 on; `make setup PYTHON=/path/to/python3.12` chooses one.
PYTHON ?=
# Where face-api's models lie, for the tests that need them.
FACES := $(VENV)/face-api
# Passed to pip as it stands, for instance PIP_ARGS="--proxy ...".
PIP_ARGS ?=
# Which PyTorch: `cpu` (some 200 MB), `cuda` (some 5 GB with its libraries on Linux), or `auto`: the
# CPU's where no NVIDIA card answers and the package index offers it, else the index's own choice.
TORCH ?= auto
# Processes that the tests run in, one thread each: one more than two cores, because some tests wait
# for processes of their own.
JOBS ?= 3

.PHONY: help setup demo test extras torture lint format bench gpu clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv with the tested versions (once; a few minutes, up to 6 GB on Linux)

demo: $(STAMP) ## Protect, attack, evaluate and compare on the packaged photos (a few minutes)
	$(VENV)/bin/apdm demo

test: $(STAMP) ## Run the tests
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

extras: $(STAMP) ## Fetch Ray, TensorBoard and face models (100 MB), run the tests that need them
	$(INSTALL) --editable '.[cluster,tensorboard]'
	@set -e; \
	if [ ! -d $(FACES) ] && command -v npm >/dev/null; then \
	    npm pack --silent --pack-destination $(VENV) @vladmandic/face-api@1.7.15 >/dev/null; \
	    mkdir -p $(FACES).part; \
	    tar -xzf $(VENV)/vladmandic-face-api-1.7.15.tgz -C $(FACES).part --strip-components=2 package/model; \
	    mv $(FACES).part $(FACES); \
	fi; \
	if [ -d $(FACES) ]; then export APDM_FACE_API="$$PWD/$(FACES)"; \
	else echo "There is no npm to fetch the face models with: their tests are left out."; fi; \
	$(MAKE) test ARGS="-m extras $(ARGS)"

lint: $(STAMP) ## Check style, formatting and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(STAMP) ## Let ruff rewrite what it can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

torture: $(STAMP) ## Kill, fill disks, damage files (ARGS="--minutes 20 --seed 0"; 10 minutes)
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(PY) -m tests.torture $(ARGS)

bench: $(STAMP) ## Measure the pocket model's card
	$(PY) -m benchmarks.pocket_card

gpu: ## Measure, test and train on a GPU, with or without a network (benchmarks/gpu.py)
	benchmarks/gpu.sh $(ARGS)

clean: ## Remove .venv and caches; runs/ stays
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last: an interrupted set-up starts again, a finished one is left alone.
$(STAMP): pyproject.toml constraints.txt
	@set -e; \
	if ! $(PY) -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    found=; \
	    for candidate in $(PYTHON) python3.11 python3.12 python3.13 python3 python; do \
	        if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
	            >/dev/null 2>&1; then found=$$candidate; break; fi; \
	    done; \
	    if [ -z "$$found" ]; then \
	        echo "No Python 3.11 or newer with the venv module was found." >&2; \
	        echo "Install one, or name it: make setup PYTHON=/path/to/python3.11" >&2; \
	        exit 1; \
	    fi; \
	    echo "Setting up $(VENV) with $$($$found --version) ($$found)."; \
	    rm -rf $(VENV); \
	    "$$found" -m venv $(VENV); \
	fi
	@set -e; \
	echo "Step 1 of 2: PyTorch, the largest download."; \
	pinned() { sed -n "s/^\($$1==.*\)/\1/p" constraints.txt; }; \
	plain="$$(pinned torch) $$(pinned torchvision)"; \
	slim="$$(pinned torch)+cpu $$(pinned torchvision)+cpu"; \
	wanted=$$plain; \
	case "$(TORCH)" in \
	cpu) wanted=$$slim; \
	    $(INSTALL) --dry-run --quiet --no-deps $$slim >/dev/null 2>&1 || { \
	        echo "This package index has no CPU-only PyTorch ($$slim)." >&2; \
	        echo "Name one that has it, PIP_ARGS='--extra-index-url URL', or use TORCH=auto." >&2; \
	        exit 1; } ;; \
	cuda) ;; \
	auto) \
	    if [ "$$(uname -s)" = Linux ] && ! nvidia-smi -L >/dev/null 2>&1; then \
	        if $(INSTALL) --dry-run --quiet --no-deps $$slim >/dev/null 2>&1; then wanted=$$slim; \
	        else echo "No NVIDIA card answers, and this package index has no CPU-only PyTorch:"; \
	             echo "taking the usual one (about 6 GB). 'make setup TORCH=cpu' insists on the small one."; \
	        fi; \
	    fi ;; \
	*) echo "TORCH=$(TORCH): choose auto, cpu or cuda." >&2; exit 2 ;; \
	esac; \
	$(INSTALL) $$wanted; \
	echo "Step 2 of 2: apdm and the tested versions of its other dependencies."; \
	$(INSTALL) --editable '.[test,lint]'
	@touch $@
	@echo "Done. The command is $(VENV)/bin/apdm; 'make demo' shows what it does."
