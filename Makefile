# Two commands need no set-up: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
# spinning OpenMP threads collapse on shared cores; progress bars of libraries do not belong into logs
export OMP_WAIT_POLICY := PASSIVE
export TQDM_DISABLE := 1
export HF_HUB_OFFLINE := 1

.PHONY: setup demo test fast site clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Holdfast needs Python 3.11 or newer; try: make $(MAKECMDGOALS) PYTHON=python3.11")'
	@echo 'setting up .venv: a few minutes, most of it torch and the libraries that are tested against'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup  ## compact a recorded coding session and show what survived
	@$(BIN)/holdfast demo

test: fast  ## every check
	@$(BIN)/holdfast fetch
	$(BIN)/python -m pytest -q -m 'model and not gemma'

fast: setup  ## every check that needs no real model
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m 'not model and not gemma'

site: setup  ## the pages of docs/ as a site in out/site
	$(BIN)/zensical build

clean:
	rm -rf .venv out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
