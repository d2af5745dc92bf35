# make setup | demo | test | test-slow | test-slurm | faults | style | full | clean.  Everything lives in .venv; nothing outside
# Python is needed.
#
#   PYTHON=python3.11     the interpreter .venv is made with (3.11 or newer)
#   EXTRAS=cuda12,dev     the optional dependencies; on Linux x86_64 dev and what the NVIDIA driver can run (cuda13, which
#                         serves without a GPU too, or cuda12), dev elsewhere
#   TORCH_INDEX=address   of torch's wheels for another CUDA than that of its default ones: docs/gpu.md, Installation
#   DATA=folder OUT=demo  what `make demo` trains on (without DATA: phantom videos) and where it writes

PYTHON ?= python3
DATA ?=
OUT ?= demo
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.trocar-setup
comma := ,
# Empty without a driver that answers. CUDA 13 needs 580, CUDA 12 needs 525.
DRIVER := $(shell nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | grep -oE '^[0-9]+' | head -n 1)
CUDA := $(shell test -n "$(DRIVER)" && test "$(DRIVER)" -lt 580 && echo 12 || echo 13)
# DALI has wheels for Linux on x86_64 and arm64 servers only.
EXTRAS ?= $(if $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m)),cuda$(CUDA)$(comma)dev,dev)
TORCH_INDEX ?=
# Torch's default wheels are built for CUDA 13, and would see no GPU.
OLD := $(if $(filter 12,$(CUDA)),$(if $(filter undefined default file,$(origin TORCH_INDEX)),$(filter file,$(origin EXTRAS))))
WORKERS ?= 2

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup demo test test-slow test-slurm faults style full clean
.DELETE_ON_ERROR:

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "make: no '$(PYTHON)' on the PATH; install Python 3.11 or newer, or say where it is: make setup PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: Trocar needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1); use make setup PYTHON=/path/to/newer/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) has no venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@test -z "$(OLD)" || { echo "make: the NVIDIA driver here is $(DRIVER), and torch's default wheels need 580: update it; or give the address of torch's wheels for CUDA 12 (driver 525 or newer; docs/gpu.md says where it is named): make setup TORCH_INDEX=...; or leave the GPU alone: make setup EXTRAS=dev" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@set -ex; \
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $$(grep -E '^(torch|torchvision)==' constraints.txt) -c constraints.txt; \
	$(BIN)/python -m pip install --quiet -e '.[$(EXTRAS)]' -c constraints.txt
	@touch $@
	@echo "ready: $(BIN)/trocar"

demo: $(STAMP)
	$(BIN)/trocar demo --out "$(OUT)" $(if $(DATA),--data "$(DATA)")

# One thread per worker: the workers already fill the cores.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest

test: $(STAMP)
	$(PYTEST) -n $(WORKERS) -m "not slow and not faults and not slurm"

# Whole trainings, evaluations and studies.
test-slow: $(STAMP)
	$(PYTEST) -n $(WORKERS) -m "(slow or faults) and not slurm" --ignore tests/faults

# On a real SLURM. They preempt each other's jobs: one at a time.
test-slurm: $(STAMP)
	$(PYTEST) -m slurm

# Breaks processes, disks and files on purpose; its table is the one of docs/reliability.md.
faults: $(STAMP)
	$(PYTEST) tests/faults -n $(WORKERS) --write-reliability docs/reliability.md

style: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy --strict trocar
	$(BIN)/lint-imports

# Everything there is, in fresh clones and with other versions too: about two hours.
full:
	.ci/run --full

clean:
	rm -rf $(VENV) $(VENV)-* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
