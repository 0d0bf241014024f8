# make help lists what there is to do. Everything works on a fresh machine with Python 3.11 and GNU make.
.DEFAULT_GOAL := help
.PHONY: help setup develop up test check format bench image soak replay focus

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

setup: ## install into .venv; `.venv/bin/faas up` then starts a bare node
	@deploy/setup.sh --no-dev --inexact

develop:
	@deploy/setup.sh

up: setup ## a running node with a function in it, on http://127.0.0.1:8080
	@exec .venv/bin/faas up --demo

test: develop ## the whole test suite, on real parts; as root on Debian it starts a Docker engine (ARGS="-k word" to narrow)
	@TEST_SERVERS=1 deploy/with-engine.sh .venv/bin/pytest -rs -n 2 --dist loadscope $(ARGS)

check: develop ## format, lint, types, imports
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy --namespace-packages --explicit-package-bases faas runtimes tests
	@.venv/bin/lint-imports

format: develop ## mend format and what lint can mend by itself
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

bench: develop ## how fast it is, beside a bare server in the same run (ARGS="--help" for choices)
	@deploy/with-engine.sh .venv/bin/python -m tests.bench $(ARGS)

image: setup ## build the runtime image on this machine's Docker engine (as root on Debian: install one first)
	@deploy/with-engine.sh true

soak: develop ## a million messages and a thousand calls under kills, 200 crashes of the ledger; all accounted for (SEED=1)
	@.venv/bin/python -m tests.e2e.soak_queues $(if $(SEED),--seed $(SEED))
	@.venv/bin/python -m tests.e2e.soak_ledger $(if $(SEED),--seed $(SEED)) $(if $(RUNS),--runs $(RUNS))
	@deploy/with-engine.sh .venv/bin/python -m tests.e2e.soak_kills $(if $(SEED),--seed $(SEED)) $(ARGS)

replay: develop ## a trace through every keep-alive policy (TRACE=folder, ARGS="--json" for numbers)
	@.venv/bin/python -m faas.testing.replay $(or $(TRACE),tests/traces/azure2019-sample-100) $(ARGS)

focus: develop ## FOCUS files in the FinOps Foundation's validator (installs it apart; needs Python 3.12; ARGS="bill.csv")
	@PATH="$(CURDIR)/.venv/bin:$$PATH" .venv/bin/python -m tests.focus_validator $(ARGS)
