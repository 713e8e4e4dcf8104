# Every target sets up what it needs: python3 with venv, a C compiler and make are enough.
PYTHON ?= python3

BIN := .venv/bin
SHIM := $(wildcard hookd/shim/*.c hookd/shim/*.h)

# What test-real needs, and what it takes as well where it is there.
REAL := zdb zstor
REAL_TOO := zstor-0.4.0 zdbfs integrity-check

.PHONY: help setup test test-real test-docker lint types demo bench clean
.DELETE_ON_ERROR:

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name does; do \
		printf '  make %-12s %s\n' "$$name" "$$does"; done

setup: .venv/.stamp ## create .venv: the locked requirements, hookd (editable) and its shim

# In memory where there is room: the tests sync thousands of files, and lose power only in their models.
test: .venv/.stamp ## the tests that need no other program
	@room=$$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 { print $$4 }'); \
	[ "$${room:-0}" -gt 2000000 ] && [ -w /dev/shm ] && base=/dev/shm || base=$${TMPDIR:-/tmp}; \
	tmp=$$(mktemp -d "$$base/hookd-XXXXXX") && trap 'rm -rf "$$tmp"' EXIT && \
	TMPDIR="$$tmp" $(BIN)/pytest -n 4 --dist loadfile -m "not real and not docker" --basetemp="$$tmp/t"

test-real: .venv/.stamp ## the tests against the real programs, 100 restores, 200 rounds of kill -9
	@missing=; for program in $(REAL); do \
		command -v $$program >/dev/null || missing="$$missing $$program"; done; \
	[ -z "$$missing" ] || { echo "hookd: not on PATH:$$missing; test-real needs $(REAL)" >&2; exit 1; }
	@for program in $(REAL_TOO); do \
		command -v $$program >/dev/null || echo "hookd: not on PATH: $$program; its tests are skipped"; done
	KILL_ROUNDS=200 RESTORE_MOMENTS=100 $(BIN)/pytest -m real
	KILL_ROUNDS=200 $(BIN)/pytest tests/faults/test_kill_rounds.py

test-docker: .venv/.stamp ## build the container, break it in every way, compare every hash
	$(BIN)/python -m tests.docker.image qsfs --check
	$(BIN)/pytest -m docker --timeout 900 $(or $(ARGS),tests/docker)

lint: .venv/.stamp ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.stamp ## mypy, strict
	$(BIN)/mypy

demo: .venv/.stamp ## the demonstration of hookd
	$(BIN)/hookd demo

bench: .venv/.stamp ## what a hook costs, measured here
	$(BIN)/python -m tests.bench

clean: ## remove what make and the tools left
	rm -rf .venv dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One line for what is missing, before pip wraps it into fifty.
.venv/.locked: requirements.lock
	@command -v $(PYTHON) >/dev/null || \
		{ echo "hookd: $(PYTHON) not found: install python3 (Debian: apt-get install python3 python3-venv) or set PYTHON" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "hookd: $(PYTHON) is older than 3.11: set PYTHON to a newer one" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "hookd: $(PYTHON) has no venv: install it (Debian: apt-get install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

# Not isolated: the build backend is in the lock file too.
.venv/.stamp: .venv/.locked pyproject.toml hatch_build.py $(SHIM)
	@command -v $(firstword $(CC)) >/dev/null || \
		{ echo "hookd: no C compiler found: install gcc (Debian: apt-get install gcc libc6-dev) or set CC" >&2; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
