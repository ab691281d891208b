# make demo | test | acceptance | bench | profiles | lock | clean
#
# PYTHON        the Python 3.11 (or newer) that the environment is made from
# PYTEST_ARGS   narrows the tests, which then run in one process: make test PYTEST_ARGS="tests/test_config.py -x"
# TEST_WORKERS  processes that share the tests where nothing narrows them
# TORCH_INDEX   package index to take torch from, for example that of the CPU or of another CUDA build
# CORES         cores that the demo may use
# BENCH_ARGS    narrows the benchmarks or names data: make bench BENCH_ARGS="core_step startup"

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: demo test acceptance bench profiles lock clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
CORES ?= all
BENCH_ARGS ?=
PYTEST_ARGS ?=
TEST_WORKERS ?= 2
TORCH_INDEX ?=

BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export MPLBACKEND := Agg

demo: .venv/installed
	snakemake --profile profiles/local --cores $(CORES) all
	@echo
	@echo "report        $(CURDIR)/results/report.html"
	@echo "score table   $(CURDIR)/results/tables/scores.md  (also .csv and .tex)"
	@for figures in results/*/figures; do echo "figures       $(CURDIR)/$$figures/"; done

# every check runs, so that one failure does not hide the next; pytest says last what failed
test: .venv/installed
	@failed=""; \
	check() { echo "+ $$*"; "$$@" || failed="$$failed\n  $$*"; }; \
	check ruff check .; \
	check ruff format --check .; \
	check mypy; \
	check snakefmt --check Snakefile rules; \
	check snakemake --lint; \
	check python -m pytest -m "not acceptance" $(or $(PYTEST_ARGS),-n $(TEST_WORKERS) --durations 15); \
	if [ -n "$$failed" ]; then echo -e "failed:$$failed"; exit 1; fi

acceptance: .venv/installed
	python -m pytest -m acceptance -s -rA $(PYTEST_ARGS)

# every comparison of speed and memory, beside the peers; on an otherwise idle machine. The results stand in benchmarks/
bench: .venv/installed
	python benchmarks/run.py $(BENCH_ARGS)

# lets `snakemake --profile slurm` (and local) find the profiles of this checkout
profiles:
	@folder="$${XDG_CONFIG_HOME:-$$HOME/.config}/snakemake"; mkdir -p "$$folder"; \
	for name in local slurm; do \
	  if [ -e "$$folder/$$name" ] && [ ! -L "$$folder/$$name" ]; then \
	    echo "$$folder/$$name exists and is no link; move it away first" >&2; exit 1; fi; \
	  ln -sfn "$(CURDIR)/profiles/$$name" "$$folder/$$name"; echo "$$folder/$$name -> profiles/$$name"; \
	done

# exact versions of everything that pyproject.toml asks for, tools of the tests and the build backend included; local build
# labels (+cpu) and what only a CUDA build of torch needs are dropped, so that a machine takes its own build of this torch
lock:
	@folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	$(PYTHON) -m venv "$$folder"; \
	"$$folder/bin/pip" install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch==2.13.0 ".[search,nwb,whitenoise,parquet,hub,wandb,mlflow,movies,notebooks,test]" hatchling editables; \
	{ sed -n '/^#/p' requirements.lock; "$$folder/bin/pip" freeze --exclude coread \
	  | sed -E '/^(nvidia|cuda|triton)/d; s/\+[a-z0-9.]*$$//'; } > "$$folder/lock"; \
	mv "$$folder/lock" requirements.lock
	$(MAKE) deploy/environment.yml

# versions are written out, since not every conda client finds a requirements file that an environment file names
deploy/environment.yml: requirements.lock
	{ sed -n '/^#/p' $@; printf '%s\n' 'name: coread' 'channels: [conda-forge]' 'dependencies:' '  - python=3.11' '  - pip' '  - pip:'; \
	  sed '/^#/d; s/^/      - /' requirements.lock; } > $@.part
	mv $@.part $@

clean:
	rm -rf .venv results logs .snakemake

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "coread needs Python 3.11 or newer, found " + sys.version)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@
