# On a fresh machine two commands suffice: `make reproduce` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2
SCALE ?= cpu
# `make reproduce JSON=FILE` also writes the numbers to FILE
STAMP := $(VENV)/.installed

.PHONY: help reproduce test test-all bench bench-federated docs lint venv clean
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

reproduce: $(STAMP) ## train BP, FA and sign-FA on real digits; table and figure of the conserved potential
	$(BIN)/lit-fa table run paper_configs/conservation/digits.yaml --scale $(SCALE) --jobs $(JOBS) --out scratch/reproduce --allow-dirty
	$(BIN)/lit-fa table report paper_configs/conservation/digits.yaml --scale $(SCALE) --out scratch/reproduce --draw $(if $(JSON),--json $(JSON))

test: $(STAMP) ## run the tests on two cores: about 8 minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --timeout 300

test-all: $(STAMP) ## run the slow tests as well
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --timeout 1800 -m 'not gpu and not paper'

bench: $(STAMP) ## time one training step of every rule against backprop, alternating, one thread
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.step $(BENCH) $(if $(JSON),--json $(JSON))
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.overhead
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.fine_tuning
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.report
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.reads
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.table paper_configs/conservation/digits.yaml --set trainer.max_epochs=5
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.logging_cost

bench-federated: $(STAMP) ## time a federated round: our executors, plain loops, two ranks
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.federated $(BENCH) $(if $(JSON),--json $(JSON))

docs: $(VENV)/.docs ## write the documentation site to build/docs/html; a warning or a dead link is an error
	OMP_NUM_THREADS=1 PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m docs.site

lint: $(STAMP) ## check style, format and the types of the packages that pyproject lists
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

venv: $(STAMP) ## create the virtual environment only

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lit-fa needs Python >= 3.11: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev,flower,onnx,privacy]'
	touch $@

$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[docs]'
	touch $@

clean: ## delete what can be made again (not results, not data)
	rm -rf $(VENV) scratch build *.egg-info .pytest_cache .ruff_cache .mypy_cache
