# EdgeNAS needs Python 3.11-3.13, git and make; everything else comes into .venv.
# Another interpreter: make PYTHON=/path/to/python3.13 test

BIN := .venv/bin
# .ci/run asks for a report here.
PYTEST_ARGS ?=
export PYTHON

.PHONY: help quickstart test test-boards real-world lint env env-dev clean

help:
	@echo "make quickstart   set up, then profile this machine, search, train and ship: the whole main job"
	@echo "make test         set up with everything for development, lint, type-check, test"
	@echo "make test-boards  test against an emulated ARM64 board: Linux on x86-64 with Debian's apt, as root"
	@echo "make real-world   what only real time can show: profiles, cuts, bad links, boards; prints figures, resumes"
	@echo "make lint         ruff, mypy and the rule of imports alone"
	@echo "make env          the environment .venv alone (made once, then reused)"
	@echo "make clean        remove .venv and all caches"

quickstart: env
	@scripts/system_parts.sh dataset-fashion-mnist
	@$(BIN)/edgenas quickstart

test: env-dev
	@scripts/system_parts.sh openssh-server iproute2 nftables adb mksh toybox dataset-fashion-mnist g++
	@$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

# Its root file system is built from Debian's packages once, and kept in ~/.cache/edgenas-tests (EDGENAS_TESTS_CACHE).
test-boards: env-dev
	@scripts/system_parts.sh openssh-server
	$(BIN)/python -m pytest benchmarks/real/boards $(PYTEST_ARGS)

real-world: env-dev
	@scripts/system_parts.sh openssh-server iproute2 nftables
	$(BIN)/python -m pytest benchmarks/real --resume $(PYTEST_ARGS)

lint: env-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

env:
	@scripts/environment.sh run

env-dev:
	@scripts/environment.sh dev

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
