# make run: the main job. make test: the tests. Both do their own set-up in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS ?= dev
# A worker more than processors, since some tests wait for servers; whole files in their order: the slow ones come
# first, and what a module shares is made once. `make test PARALLEL=` takes them one by one.
WORKERS ?= $(shell $(PYTHON) -c "import os; print(min(os.cpu_count(), 7) + 1)")
PARALLEL ?= -n $(WORKERS) --dist=loadfile --no-loadscope-reorder

.PHONY: setup run test quick lint docs bench mutants clean

setup: $(VENV)/.installed-$(EXTRAS)

$(VENV)/.installed-$(EXTRAS): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

run: setup
	$(BIN)/python -m sweep calibration.fisher=32 $(ARGS)

test: setup
	$(if $(PARALLEL),OMP_NUM_THREADS=1 )$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

# without those that take seconds of a processor, start a cluster or a browser
quick:
	$(MAKE) test ARGS='-m "not gpu and not slow and not cluster and not browser" $(ARGS)'

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs:
	$(MAKE) setup EXTRAS=dev,docs
	$(BIN)/python -m mkdocs build --strict

bench:
	$(MAKE) setup EXTRAS=dev,bench
	$(BIN)/python -m bench $(ARGS)

# of all modules that bench/mutants.py names; ARGS=quantization.replicates takes one. The table goes to bench/RESULTS.md
mutants:
	$(MAKE) setup EXTRAS=dev,mutants
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.mutants $(or $(ARGS),all)
	$(BIN)/python -m bench mutants

clean:
	rm -rf $(VENV)
