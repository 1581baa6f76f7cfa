# Everything runs in a virtual environment of this folder, made anew when pyproject.toml changes.
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
STAMP := .venv/$(shell cksum < pyproject.toml | tr ' ' '-').stamp
PEERS := build/peers-venv

.PHONY: demo test bench bench-peers lint clean

demo: $(STAMP)
	$(BIN)/vitloom simulate digits_vit --preset l8 --samples 20

test: lint
	$(BIN)/python -m pytest -n 2

bench: $(STAMP)
	$(BIN)/python -m vitloom.sim.bench

bench-peers: $(STAMP) $(PEERS)/.stamp
	$(BIN)/python -m vitloom.sim.bench_peers --python $(PEERS)/bin/python

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

# SCALE-Sim 3.0.0 fails with newer numpy, so it lives in an environment of its own.
$(PEERS)/.stamp:
	$(PYTHON) -m venv --clear $(PEERS) && $(PEERS)/bin/pip install --quiet scalesim==3.0.0 "numpy<2.4" || \
		{ echo "SCALE-Sim could not be installed into $(PEERS)" >&2; exit 1; }
	@touch $@
