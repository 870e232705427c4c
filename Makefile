# Two commands need no set-up: `make demo` and `make test`.
PYTHON ?= python3
PYTHON312 ?= python3.12
BIN := .venv/bin
TESTS := $(BIN)/python -m pytest -q -n 2 --dist worksteal
# spinning OpenMP threads collapse on shared cores; progress bars of libraries do not belong into logs
export OMP_WAIT_POLICY := PASSIVE
export TQDM_DISABLE := 1
export HF_HUB_OFFLINE := 1
# the programs of the agents, gigabytes of them, are kept here between runs
AGENTS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/holdfast-agents

.PHONY: setup demo test checks fast test-all test-agents test-inspect site clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Holdfast needs Python 3.11 or newer; try: make $(MAKECMDGOALS) PYTHON=python3.11")'
	@echo 'setting up .venv: a few minutes, most of it torch and the libraries that are tested against'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup  ## compact a recorded coding session and show what survived
	@$(BIN)/holdfast demo

test: checks .venv-agents/ready  ## every check; what it skips and why is listed at the end
	@$(BIN)/holdfast fetch
	PATH="$(CURDIR)/.venv-agents/bin:$$PATH" $(TESTS) --durations=25 -m 'not gemma and not slow'
	@if [ -x .venv-agents/bin/mini-swe-agent ]; then .venv-agents/bin/python -m pytest -q tests/adapters/test_mini_swe_agent.py; fi

fast: checks  ## every check that needs no real model
	$(TESTS) -m 'not model and not gemma'

checks: setup  ## format, lint, types, import contracts, docs drift
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

test-all: test  ## and what takes long, or an environment of its own: gigabytes, and Python 3.12
	$(BIN)/holdfast fetch gemma3-270m
	$(BIN)/python -m pytest -q -m 'gemma or slow'
	$(TESTS) --hypothesis-profile=thorough -m 'not model and not gemma'
	benchmarks/vllm/setup.sh .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet pytest hypothesis
	PYTHONPATH=src .venv-vllm/bin/python -m pytest -q tests/vllm
	$(PYTHON312) -m venv .venv-openhands
	.venv-openhands/bin/python -m pip install --quiet --editable '.[openhands]' pytest hypothesis torch==2.13.0
	.venv-openhands/bin/python -m pytest -q tests/adapters/test_openhands.py
	$(MAKE) test-inspect

test-inspect: .venv-inspect/ready  ## Holdfast under inspect-ai, offline: the eight tasks with the scripted agent
	.venv-inspect/bin/python -m pytest -q tests/bench/test_inspect.py tests/adapters/test_docs.py -k inspect

test-agents: setup  ## the real agents, each in a home of its own against a scripted provider on 127.0.0.1
	$(BIN)/python tests/agents/install.py $(AGENTS)
	mkdir -p out
	HOLDFAST_AGENTS=$(AGENTS) $(BIN)/python -m pytest -q tests/agents -o junit_family=xunit1 --junitxml=out/agents.xml; \
	  ended=$$?; $(BIN)/python tests/agents/report.py out/agents.xml out && exit $$ended

# What mini-swe-agent needs does not fit beside ours; it sees ours through a .pth file. Where it cannot be had, its tests skip.
.venv-agents/ready: .venv/ready constraints-agents.txt
	$(PYTHON) -m venv .venv-agents
	.venv-agents/bin/python -c 'import pathlib, sys, sysconfig; pathlib.Path(sysconfig.get_path("purelib"), "beside.pth").write_text(sys.argv[1])' \
		"$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	.venv-agents/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-agents.txt \
		'mini-swe-agent>=2.4,<3' || echo 'mini-swe-agent cannot be installed here; its tests are skipped'
	@touch $@

# As for mini-swe-agent, whose libraries pin others still.
.venv-inspect/ready: .venv/ready constraints-inspect.txt
	$(PYTHON) -m venv .venv-inspect
	.venv-inspect/bin/python -c 'import pathlib, sys, sysconfig; pathlib.Path(sysconfig.get_path("purelib"), "beside.pth").write_text(sys.argv[1])' \
		"$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	.venv-inspect/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-inspect.txt \
		'inspect-ai>=0.3.285,<0.4' fsspec s3fs
	@touch $@

site: setup  ## the pages of docs/ as a site in out/site
	$(BIN)/zensical build

clean:
	rm -rf .venv .venv-* out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
