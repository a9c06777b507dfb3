# Everything happens inside this folder, in .venv. Nothing needs root.
# Another Python: make setup PYTHON=/path/to/python3.12

SHELL := /bin/sh
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
PYTHONS := $(or $(PYTHON),python3.13 python3.12 python3.11 python3)

# No target may reach a Ray or an MLflow that somebody else runs.
unexport RAY_ADDRESS RAY_API_SERVER_ADDRESS RAY_JOB_ID MLFLOW_RUN_ID MLFLOW_TRACKING_URI
export RAY_USAGE_STATS_ENABLED := 0
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: help setup demo test check chaos clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## make .venv with everything in it (a second call does nothing)

$(STAMP): pyproject.toml constraints.txt
	@set -e; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  python=; \
	  for name in $(PYTHONS); do \
	    if "$$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; \
	    then python=$$name; break; fi; \
	  done; \
	  if [ -z "$$python" ]; then \
	    echo 'error: no Python 3.11, 3.12 or 3.13 found' >&2; \
	    echo '  tried: $(PYTHONS)' >&2; \
	    echo '  fix: install one of them, or name it: make setup PYTHON=/path/to/python3.12' >&2; \
	    exit 2; \
	  fi; \
	  echo "making $(VENV) with $$python"; \
	  "$$python" -m venv --clear $(VENV); \
	fi; \
	echo 'installing the packages of constraints.txt (a minute or two the first time)'; \
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'; \
	touch $@

demo: $(STAMP) ## the whole path on made-up animals: no data, no network, no GPU
	@$(BIN)/hrnet-ray demo

# Two processes: the tests that start Ray mostly wait, so the quick ones run beside them. One test has
# 240 s (`ray` tests more, see tests/conftest.py); all of them together have an hour, for a busy machine.
test: $(STAMP) ## run the tests; more arguments: make test ARGS="-k heatmaps"
	@$(BIN)/python -m pytest -n 2 --dist loadgroup --session-timeout=3600 $(ARGS)

check: $(STAMP) ## format, lint, types, and who may import what
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports

chaos: $(STAMP) ## the tests that kill workers and nodes
	@$(BIN)/python -m pytest -m chaos --session-timeout=2400 $(ARGS)

clean: ## remove .venv, caches and runs/demo; other runs and data stay
	rm -rf $(VENV) runs/demo .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@for folder in hrnet_ray tests experiments benchmarks; do \
	  if [ -d "$$folder" ]; then find "$$folder" -type d -name __pycache__ -prune -exec rm -rf {} +; fi; \
	done
