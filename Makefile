# Needs Python 3.11 or newer, pip and make; everything else comes into .venv.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help install run test check bench docs lock clean

help: ## List what make can do
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Install everything into .venv (nothing to do when up to date)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; name one with: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $(STAMP)

run: install ## Run the service on http://127.0.0.1:8000, data in .registration
	$(BIN)/registration serve

test: install ## Run the tests
	$(BIN)/python -m pytest -n 2

check: install ## What CI runs: format, lint, types, import contracts, fresh docs, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m registration.docs --check
	$(BIN)/python -m pytest -n 2

bench: install ## Measure; writes benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks

docs: install ## Generate the reference pages
	$(BIN)/python -m registration.docs

lock: install ## Resolve the dependencies anew into requirements.lock
	@printf '%s\n' '# Exact versions and hashes of everything the service and its checks need.' \
	  '# Regenerate with: make lock' > .venv/lock.new
	CUSTOM_COMPILE_COMMAND='make lock' $(BIN)/pip-compile --quiet --extra dev --upgrade \
	  --generate-hashes --allow-unsafe --strip-extras --no-header --no-emit-index-url \
	  --no-emit-trusted-host --no-emit-find-links --output-file .venv/lock.txt pyproject.toml
	cat .venv/lock.txt >> .venv/lock.new
	mv .venv/lock.new requirements.lock

clean: ## Remove what was installed or generated; data folders stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .schemathesis .peers build dist
	find src -name __pycache__ -prune -exec rm -rf {} +
	rm -rf src/*.egg-info
