# All set-up happens here: a target installs what it needs, once. `make` alone prints this help.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PLUGINS := $(wildcard plugins/*)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
EDITABLE := $(foreach package,. $(PLUGINS),-e $(package))

INPUT ?=
ONCE ?=
ARGS ?=
COMPOSE ?= -f deploy/compose.yaml
PROFILES ?=
DOCKER_BUILD ?=

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo "  Variables: INPUT=DIR ONCE=1 (run), ARGS='…' (test, bench: passed on to pytest or the benchmark)"

$(VENV)/run.stamp: requirements/run.txt pyproject.toml $(wildcard plugins/*/pyproject.toml)
	$(PYTHON) -c 'import sys; sys.exit("ApexStream needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --require-hashes -r requirements/run.txt
	$(PIP) install --no-deps --no-build-isolation $(EDITABLE)
	@touch $@

$(VENV)/dev.stamp: requirements/dev.txt $(VENV)/run.stamp
	$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

.PHONY: install
install: $(VENV)/run.stamp ## Install ApexStream and its plugins into .venv

.PHONY: page
page: $(VENV)/run.stamp ## Build the web page and the TypeScript client (again only if their sources changed)
	@$(BIN)/python services/web/build.py

.PHONY: run
run: page ## Start everything, analyse INPUT, show the chunks, serve until Ctrl-C (ONCE=1: until the stream is complete)
	@$(BIN)/apexstream up $(if $(ONCE),--once) --run corpus analyze -p path="$${INPUT:-$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')}"

PROCESSES ?= 3
.PHONY: test
test: $(VENV)/dev.stamp page ## Unit, contract and integration tests, on embedded brokers, in PROCESSES (3) at once
	$(BIN)/pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: test-container
test-container: $(VENV)/dev.stamp page ## The same tests on a container of apache/kafka (APEX_TEST_KAFKA_IMAGE)
	APEX_TEST_KAFKA=testcontainers $(BIN)/pytest $(ARGS)

.PHONY: test-page
test-page: $(VENV)/dev.stamp page ## The page in headless Chromium (chromium and chromium-driver on PATH)
	$(BIN)/pytest -m page tests/e2e $(ARGS)

.PHONY: test-monitoring
test-monitoring: $(VENV)/dev.stamp ## Dashboards and alerts against a real Prometheus (prometheus and promtool on PATH)
	$(BIN)/pytest -m monitoring tests/monitoring $(ARGS)

.PHONY: test-brokers
test-brokers: $(VENV)/dev.stamp ## Three brokers, one killed under load: nothing is lost, the alarm comes and goes (prometheus on PATH)
	$(BIN)/pytest -m brokers tests/monitoring/test_brokers.py $(ARGS)

.PHONY: conformance
conformance: $(VENV)/dev.stamp ## The suite of the Durable Streams protocol against a running gateway (ARGS=--short)
	$(BIN)/python -m tests.conformance $(ARGS)

.PHONY: test-http
test-http: $(VENV)/dev.stamp ## The HTTP routes with many made-up requests (two minutes; make test has the systematic ones)
	$(BIN)/pytest tests/integration/test_openapi.py --http-examples 100 $(ARGS)

.PHONY: test-chat
test-chat: $(VENV)/dev.stamp ## useChat, AG-UI's HttpAgent and an EventSource from npm against a running gateway
	$(BIN)/pytest -m chat tests/chat $(ARGS)

.PHONY: test-registry
test-registry: $(VENV)/dev.stamp ## Every topic read by a foreign consumer through a real schema registry
	$(BIN)/pytest -m registry tests/e2e/test_registry.py $(ARGS)

.PHONY: test-compose
test-compose: $(VENV)/dev.stamp ## The compose file in real containers: healthy, killed, restarted (needs Docker with compose)
	$(BIN)/pytest -m compose tests/e2e/test_compose.py $(ARGS)

.PHONY: faults
faults: $(VENV)/dev.stamp ## Kill real processes: the named cases, then 200 kills in at most 30 minutes (ARGS)
	$(BIN)/pytest -m faults --timeout 1200 tests/faults
	$(BIN)/python -m tests.faults $(ARGS)

.PHONY: oracle
oracle: $(VENV)/dev.stamp ## 100,000 events through joins and windows against an oracle, with 0 and 20 kills (5 minutes)
	$(BIN)/pytest -m faults -s tests/faults/test_pipelines.py $(ARGS)

.PHONY: image
image: ## Build the container image apexstream:latest (DOCKER_BUILD: more arguments)
	docker build --quiet $(DOCKER_BUILD) -f deploy/Dockerfile -t apexstream:latest .

.PHONY: up
up: image ## Start everything in containers; the token to use it with is in deploy/secrets/token (PROFILES, COMPOSE)
	@mkdir -p deploy/secrets/auth
	@docker run --rm --user "$$(id -u):$$(id -g)" -e APEX_HOME=/keys -v "$(CURDIR)/deploy/secrets:/keys" apexstream:latest \
	  token --hours 720 > deploy/secrets/token.new && mv deploy/secrets/token.new deploy/secrets/token
	@sh deploy/secrets.sh deploy/secrets
	docker compose $(COMPOSE) $(foreach profile,$(PROFILES),--profile $(profile)) up --detach --no-build --wait --wait-timeout 180
	@echo 'Ready. Try: APEX_TOKEN_FILE=deploy/secrets/token apexstream run monitor host -p samples=5'

.PHONY: down
down: ## Stop the containers; their data stays (docker compose … down --volumes deletes it)
	docker compose $(COMPOSE) --profile '*' down

.PHONY: lint
lint: $(VENV)/dev.stamp ## Style, types, import contracts
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

.PHONY: metrics
metrics: $(VENV)/run.stamp ## Write docs/metrics.md anew from the declarations
	$(BIN)/apexstream metrics -o markdown > docs/metrics.md

.PHONY: dashboards
dashboards: $(VENV)/dev.stamp ## Write dashboards/*.json anew from their code
	$(BIN)/python -m dashboards.generate

.venv-grafana/stamp: requirements/grafana.txt pyproject.toml
	test -x .venv-grafana/bin/python || $(PYTHON) -m venv .venv-grafana
	.venv-grafana/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements/grafana.txt
	.venv-grafana/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: grafana
grafana: .venv-grafana/stamp ## An environment of its own with `apexstream dashboards push|diff`: .venv-grafana/bin/apexstream

.PHONY: test-grafana
test-grafana: $(VENV)/dev.stamp .venv-grafana/stamp ## Dashboards pushed to a server that speaks Grafana's API
	$(BIN)/pytest -m grafana tests/monitoring/test_grafana.py $(ARGS)

.PHONY: bench
bench: $(VENV)/dev.stamp ## Benchmarks: ratios of paired runs on this machine
	$(BIN)/python -m tests.bench $(ARGS)

.PHONY: lock
lock: ## Pin and hash the requirements again (needs uv)
	uv pip compile -q --generate-hashes --universal --python-version 3.11 --no-header --no-annotate pyproject.toml requirements/build.in --extra all --extra web-build -o requirements/run.txt
	uv pip compile -q --generate-hashes --universal --python-version 3.11 --no-header --no-annotate pyproject.toml requirements/build.in --extra all --extra web-build --extra otel --extra anomaly --group test -o requirements/dev.txt
	uv pip compile -q --generate-hashes --universal --python-version 3.11 --no-header --no-annotate pyproject.toml requirements/build.in --extra image -o requirements/image.txt
	uv pip compile -q --generate-hashes --universal --python-version 3.11 --no-header --no-annotate pyproject.toml requirements/build.in --extra image --extra anomaly -o requirements/image-scores.txt
	uv pip compile -q --generate-hashes --universal --python-version 3.11 --no-header --no-annotate pyproject.toml requirements/build.in --extra grafana -o requirements/grafana.txt

.PHONY: clean
clean: ## Remove what was built here (not the broker's data)
	rm -rf $(VENV) services/web/node_modules services/web/*/node_modules services/web/client/dist services/apexstream/gateway/page
