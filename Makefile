# make setup | demo | test | test-slow | test-slurm | faults | style | full | clean.  Everything lives in .venv; nothing outside
# Python is needed.
#
#   PYTHON=python3.11     the interpreter .venv is made with (3.11 or newer)
#   EXTRAS=cuda12,dev     the optional dependencies; cuda13,dev on Linux x86_64, dev elsewhere
#   DATA=folder OUT=demo  what `make demo` trains on (without DATA: phantom videos) and where it writes

PYTHON ?= python3
DATA ?=
OUT ?= demo
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.trocar-setup
# DALI has wheels for Linux on x86_64 and arm64 servers only.
EXTRAS ?= $(if $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m)),cuda13$(comma)dev,dev)
comma := ,
WORKERS ?= 2

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup demo test test-slow test-slurm faults style full clean
.DELETE_ON_ERROR:

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "make: no '$(PYTHON)' on the PATH; install Python 3.11 or newer, or say where it is: make setup PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: Trocar needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1); use make setup PYTHON=/path/to/newer/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) has no venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@set -ex; \
	$(BIN)/python -m pip install --quiet $$(grep -E '^(torch|torchvision)==' constraints.txt) -c constraints.txt; \
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
