SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
ARGS ?=
BIN := .venv/bin
PYTEST = $(BIN)/pytest --dist loadgroup
# Tests of machines and browsers wait now and then: with a worker more, two processors took 41 minutes instead of 47.
WAITING := $(shell echo $$(($$(nproc) + 1)))
# Where Python may keep no compiled modules, each of some thousand processes would compile Django anew, in six seconds.
unexport PYTHONDONTWRITEBYTECODE
# Secrets for checks that only load the settings; never for a console that anybody reaches.
CHECK_ENV = KUBESPAN_SECRET_KEY=only-for-checks-$$(printf 'x%.0s' {1..50}) KUBESPAN_KEYS=check:$$(printf 'A%.0s' {1..43})= \
	KUBESPAN_URL=https://console.example REDIS_URL=redis://127.0.0.1:1/0 ALLOWED_HOSTS=console.example KUBESPAN_DATA=.make/check

.PHONY: help
help: ## list the targets
	@echo "make TARGET [ARGS='…']"
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: environment frontend handout ## a console and a real mesh of four machines on this one (root); Ctrl-C takes all away
	@scripts/distribution.sh demo
	@$(BIN)/python manage.py demo --discovery-plain-listen 127.0.0.1:3000 $(ARGS)

.PHONY: run
run: environment frontend handout ## a console on http://127.0.0.1:8000 with everything that it needs, kept in .data
	@KUBESPAN_DATA=$${KUBESPAN_DATA:-.data} $(BIN)/python manage.py run --discovery-listen 127.0.0.1:3000 $(ARGS)

.PHONY: test
test: environment frontend handout ## all tests; with ARGS, pytest's own: make test ARGS='tests/core -q'
	@scripts/distribution.sh test
ifneq ($(strip $(ARGS)),)
	@$(PYTEST) -n auto $(ARGS)
else
	@failed=0; \
	$(PYTEST) -n $(WAITING) --ignore tests/faults || failed=1; \
	echo "alone, for it is measured how soon everyone is back: what happens when a process is killed"; \
	$(BIN)/pytest tests/faults || failed=1; \
	echo "the console's tests once more, on PostgreSQL"; \
	$(PYTEST) -n auto --database postgresql tests/nodes || failed=1; \
	exit $$failed
endif

CHECKS := check-format check-lint check-types check-layers check-settings check-migrations check-compose check-frontend \
	check-names
.PHONY: check $(CHECKS)
check: $(CHECKS) ## format, lint, types, import contracts, deployment settings, migrations, compose file, front end, names
$(CHECKS): environment
check-format:
	@$(BIN)/ruff format --check --quiet .
check-lint:
	@$(BIN)/ruff check .
check-types:
	@$(CHECK_ENV) $(BIN)/mypy
check-layers:
	@$(BIN)/lint-imports
check-settings:
	@$(CHECK_ENV) $(BIN)/python -W error manage.py check --deploy --fail-level WARNING
check-migrations:
	@$(CHECK_ENV) $(BIN)/python manage.py makemigrations --check --dry-run
check-compose:
	@$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
check-frontend:
	@scripts/frontend.sh check
check-names:
	@scripts/names.sh

.PHONY: bench
bench: environment frontend ## what it costs: measurements of this machine
	@$(BIN)/python -m tests.bench $(ARGS)

.PHONY: screenshots
screenshots: environment frontend ## pictures of every page into docs/screenshots; ARGS=node for some
	@$(BIN)/python -m tests.screenshots $(ARGS)

.PHONY: fmt
fmt: environment ## format, and fix what can be fixed
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

.PHONY: lock
lock: .uv/bin/uv ## pin every dependency with hashes from pyproject.toml; ARGS=--upgrade for the newest
	@export UV_CUSTOM_COMPILE_COMMAND='make lock'; \
	compile() { .uv/bin/uv pip compile -q --generate-hashes --universal --python-version 3.11 --no-annotate \
		--no-emit-index-url --no-emit-find-links $(ARGS) pyproject.toml "$${@:2}" -o requirements/$$1.lock; }; \
	compile dev --extra console --extra dev; \
	compile console --extra console -c requirements/dev.lock; \
	compile agent -c requirements/dev.lock

.PHONY: proto
proto: environment ## generate the discovery protocol's messages from the .proto files
	@$(BIN)/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. kubespan/discovery/proto/*.proto

.PHONY: frontend
frontend: environment ## what pages load: npm packages by lock file, built into nodes/static
	@scripts/frontend.sh build

.PHONY: agent
agent: environment ## the self-contained agent that the console hands out, into build/agent
	@scripts/agent.sh

# A console without an agent to hand out still runs, and says so.
.PHONY: handout
handout: environment
	@scripts/agent.sh || true

.PHONY: environment
environment:
	@scripts/environment.sh

.uv/bin/uv:
	@scripts/environment.sh uv
