# The daily commands. `make` alone lists them.
# PYTHON=... chooses the interpreter of a new .venv; TESTS=... and ARGS=... choose tests and pytest's options.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test test-all check format bench chaos gpu-test lock clean

PYTHON ?= python3
PY := .venv/bin/python
# Many tests wait for real processes, so four at a time fill two cores; the long ones come first, in the order of the
# folders. Threads that share cores must not spin.
PARALLEL := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(PY) -m pytest -n 4 --dist loadfile --no-loadscope-reorder
TESTS ?= tests
ARGS ?=

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

install: .venv/installed ## .venv with every package of requirements.lock, torch and this project
	@:

# The stamp is the last thing that the script writes; with nothing changed, make does nothing and says nothing.
.venv/installed: requirements.lock pyproject.toml scripts/install.py
	@"$(PYTHON)" scripts/install.py

demo: .venv/installed ## fine-tune a small model with SFT and DPO through the service, in a few minutes
	@$(PY) examples/demo.py

test: check ## what must pass before a commit: `make check` and the quick tests
	@$(PARALLEL) -m "not slow and not gpu" $(TESTS) $(ARGS)

test-all: check ## every test that needs no GPU
	@$(PARALLEL) --hypothesis-profile=default -m "not gpu" $(TESTS) $(ARGS)

check: .venv/installed ## lint, format, types and the direction of imports
	@$(PY) -m ruff check --quiet .
	@$(PY) -m ruff format --check --quiet .
	@$(PY) -m mypy --no-error-summary
	@.venv/bin/lint-imports --no-logo > .venv/lint-imports.txt || { cat .venv/lint-imports.txt; exit 1; }

format: .venv/installed ## put the code into shape
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

bench: .venv/installed ## measure what the README and docs claim
	@$(PY) -m benchmarks $(ARGS)

N ?= 100
SEED ?= 1
chaos: .venv/installed ## kill parts of a whole box at random: N=... rounds, SEED=...; ARGS="--database postgresql"
	@nice -n 10 env OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(PY) -m tests.chaos --rounds $(N) --seed $(SEED) $(ARGS)

# A GPU machine brings its own torch: `make gpu-test PY=python3` runs there without a .venv.
gpu-test: ## the tests that need a CUDA GPU
	@$(PY) -m pytest -m gpu tests/gpu $(ARGS)

# torch and what its CUDA build brings are left out: which build is right depends on the machine (scripts/install.py).
NOT_LOCKED := torch triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc \
  nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse \
  nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx

COMPILE := .venv/bin/uv pip compile --quiet --no-header --generate-hashes --no-annotate pyproject.toml
IMAGE := --python-version 3.12 --python-platform x86_64-manylinux_2_28 --constraint requirements.lock

# Unsloth's newest release asks for a certifi that the registry does not have; the one that is tested is taken instead.
lock: .venv/installed ## write the lock files anew from pyproject.toml
	@{ echo '# Every version that OpenSloth is tested with; made by `make lock`. torch is installed apart from it (see the Makefile).'; \
	  $(COMPILE) --extra api --extra worker --extra train --extra s3 --group dev --universal $(NOT_LOCKED:%=--no-emit-package %); } > .lock.new
	@mv .lock.new requirements.lock
	@{ echo '# What the api image installs, in the versions of requirements.lock; made by `make lock`.'; \
	  $(COMPILE) --extra api --extra s3 $(IMAGE); } > .lock.new
	@mv .lock.new requirements-api.lock
	@{ echo '# What the worker image installs, in the versions of requirements.lock; made by `make lock`.'; \
	  $(COMPILE) --extra worker --extra gpu --extra s3 $(IMAGE) --override <(grep -o '^certifi==[0-9.]*' requirements.lock); } > .lock.new
	@mv .lock.new requirements-worker.lock

clean: ## remove .venv, caches and what the demo left in the tree
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist unsloth_compiled_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
