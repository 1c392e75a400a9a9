# `make help` lists the targets. Each sets up what it needs in .venv first, and does so again only when
# pyproject.toml or constraints.txt changed.

PYTHON ?= python3
# Processes that run tests; a file's tests stay in one of them, so that its fixtures are built once. One more than the
# cores of a small machine, since tests of interruptions and of launch scripts wait.
JOBS ?= 3
PYTEST = env -u PYTHONDONTWRITEBYTECODE $(VENV_PYTHON) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

# Of `make fuzz`.
MINUTES ?= 5
SEED ?= 0

VENV := .venv
VENV_PYTHON := $(VENV)/bin/python
# Bytecode is written for what is imported, below, rather than for all that is installed: a third of the set-up time.
INSTALL := $(VENV_PYTHON) -m pip install --disable-pip-version-check --no-compile -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast fuzz lint docs clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(VENV)/.runtime-installed ## set up, train and evaluate on the embedded data set; the report goes to runs/demo
	$(VENV_PYTHON) -m rllava_jax.main --config configs/demo.py --workdir runs/demo
	@report=$$(ls -t runs/demo/eval/*/report.html | head -n 1) && test -n "$$report" && \
		printf '\nThe report: %s\n' "$(CURDIR)/$$report"

test: $(VENV)/.test-installed ## set up and run all tests
	$(PYTEST)

test-fast: $(VENV)/.test-installed ## set up and run what needs no second framework and starts no training process: minutes
	$(PYTEST) --fast

fuzz: $(VENV)/.runtime-installed ## damage the files that commands read, MINUTES=5 long, and look what becomes of them
	$(VENV_PYTHON) benchmarks/fuzz.py --minutes $(MINUTES) --seed $(SEED)

lint: $(VENV)/.test-installed ## check style, the layers of imports, and types
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV)/bin/lint-imports --no-logo
	$(VENV_PYTHON) -m mypy
	$(VENV)/bin/shellcheck launch/*.sh launch/gke/*.sh .ci/run

docs: $(VENV)/.docs-installed ## build the guides and the API reference as a site, in site/
	$(VENV)/bin/mkdocs build --strict

clean: ## remove the environment and caches, but no runs
	rm -rf $(VENV) build dist site ./*.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -path ./runs -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are written last, so that an interrupted set-up is taken up again.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: $(PYTHON) is not Python 3.11 or newer; name one that is: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Setting up $(VENV): about a minute, a gigabyte of disk."
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.runtime-installed: $(VENV)/.created pyproject.toml constraints.txt
	$(INSTALL) -e .
	@echo "Importing everything once ..."
	@env -u PYTHONDONTWRITEBYTECODE $(VENV_PYTHON) -c 'import rllava_jax.main'
	@touch $@

$(VENV)/.test-installed: $(VENV)/.runtime-installed tests/transformers-4.57.txt tests/transformers-5.24.txt \
		tests/libtpu.txt
	$(INSTALL) -e '.[test]'
	for version in 4.57 5.24; do rm -rf $(VENV)/transformers-$$version && \
		$(VENV_PYTHON) -m pip install --disable-pip-version-check --no-compile --no-deps \
		--target $(VENV)/transformers-$$version -r tests/transformers-$$version.txt || exit 1; done
	rm -rf $(VENV)/libtpu
	$(VENV_PYTHON) -m pip install --disable-pip-version-check --no-compile --no-deps --target $(VENV)/libtpu -r tests/libtpu.txt
	@touch $@

$(VENV)/.docs-installed: $(VENV)/.runtime-installed
	$(INSTALL) -e '.[docs]'
	@touch $@
