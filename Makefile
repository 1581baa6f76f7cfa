# Everything runs in a virtual environment of this folder, made anew when pyproject.toml changes.
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
STAMP := .venv/$(shell cksum < pyproject.toml | tr ' ' '-').stamp

.PHONY: demo test bench lint clean

demo: $(STAMP)
	$(BIN)/vitloom simulate digits_vit --preset l8 --samples 20

test: lint
	$(BIN)/python -m pytest -n 2

bench: $(STAMP)
	$(BIN)/python -m vitloom.sim.bench

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

$(STAMP):
	@test -n "$(PYTHON)" || { echo "vitloom needs Python 3.11 or newer on PATH" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --editable ".[dev]"
	@touch $@
