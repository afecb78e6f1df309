PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test fast faults slurm-test check bench clean

demo: $(VENV)/.installed
	$(BIN)/segtui --headless presets/demo.toml

test: $(VENV)/.installed-dev
	$(BIN)/pytest -n auto --dist loadfile -m "not slow and not faults and not slurm"
	$(BIN)/pytest -n auto --dist loadfile -m slow

fast: $(VENV)/.installed-dev
	$(BIN)/pytest -n auto --dist loadfile -m "not slow and not faults and not slurm"

faults: $(VENV)/.installed-dev
	$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder tests/faults --reliability docs/reliability.md

slurm-test: $(VENV)/.installed-dev
	tests/slurm/run $(BIN)/pytest tests/slurm

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.all

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
