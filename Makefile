# Every target makes what it needs: a virtual environment in .venv, with raykube installed for development.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help demo test lint fmt types unit sim placements robustness props factors integration cluster testbed loss bench scale benchup benchkv benchpods benchproxy benchcontrollers proto clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml
	@echo "raykube: making $(VENV) and installing into it (a minute or two the first time)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "raykube needs Python 3.11 or newer; set PYTHON=")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(STAMP) ## three machines on this computer: serve, heal, lose a leader, lose a machine
	@$(BIN)/python examples/demo.py

test: $(STAMP) ## every test
	@echo "raykube: tests without Ray, two at a time, then those on real Ray"
	@$(PYTEST) tests -m "not ray" -n 2 --dist loadfile
	@$(PYTEST) tests -m ray

lint: $(STAMP) ## ruff, mypy, the import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy raykube
	@PYTHONPATH=. $(BIN)/lint-imports

fmt: $(STAMP) ## format, and fix what can be fixed
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(STAMP) ## mypy alone
	@$(BIN)/mypy raykube

unit: $(STAMP) ## tests of the cores: transcripts, properties (seconds)
	@$(PYTEST) tests -m "not integration and not ray"

sim: $(STAMP) ## the store's simulator; SEED=n replays one life, SEEDS=a:b runs many on all cores
	@$(BIN)/python -m tests.sim $(or $(SEED),$(SEEDS),0:1000)

PLACEMENTS ?= 20000
placements: $(STAMP) ## the scheduler's placements, each checked by a dumb twin; PLACEMENTS=1000000 (hours), FLAGS='--seed 7' replays one life
	@$(BIN)/python -m tests.scheduler.placements --count $(PLACEMENTS) $(FLAGS)

ROUNDS ?= 50
robustness: $(STAMP) ## members as processes, killed, paused and cut off; ROUNDS=200, FLAGS=--members=5
	@$(BIN)/python -m tests.robustness --rounds $(ROUNDS) $(FLAGS)

props: $(STAMP) ## property tests, ten times as many examples
	@$(PYTEST) tests -m "not integration and not ray" --hypothesis-profile=deep

factors: $(STAMP) ## what the scheduler's factors are worth: each figure with it and without
	@$(BIN)/python -m tests.factors.table

integration: $(STAMP) ## components as processes, real kubectl, the official client
	@$(PYTEST) tests -m integration

cluster: $(STAMP) ## tests on real Ray
	@$(PYTEST) tests -m ray

HOSTS ?= 4
testbed: $(STAMP) ## HOSTS=4 machines made of namespaces, and a shell to use them from (needs root)
	@$(BIN)/python -m tests.testbed --hosts $(HOSTS)

loss: $(STAMP) ## the loss table: each of 4 machines killed and cut off, 10 s and 60 s (half an hour)
	@$(BIN)/python -m tests.testbed.loss $(FLAGS)

bench: $(STAMP) ## named measurements on hollow machines; SCENARIO=density (all: pods schedule …), FLAGS='--nodes 500'
	@$(if $(SCENARIO),,$(BIN)/raykube bench)
	@$(foreach name,$(or $(SCENARIO),pods schedule),$(BIN)/raykube bench $(name) $(FLAGS) &&) true

TABLE ?= quick
scale: $(STAMP) ## the scale table, row by row, each in a control plane of its own; TABLE=full (an hour or more), FLAGS='--row deploy'
	@$(BIN)/raykube bench --table $(TABLE) $(FLAGS)

benchup: $(STAMP) ## time and memory of up; DNS answers
	@$(BIN)/python -m benchmarks.up
	@$(BIN)/python -m benchmarks.dns

benchkv: $(STAMP) ## the store beside real etcd, turn by turn; FLAGS='--only puts --repeat 1'
	@$(BIN)/python -m benchmarks.kv $(FLAGS)

benchpods: $(STAMP) ## pods started on containerd beside the bare CRI calls (root); FLAGS='--single 3 --repeat 1'
	@$(BIN)/python -m benchmarks.podstart $(FLAGS)

benchproxy: $(STAMP) ## Service rules beside kube-proxy's layout, in a network namespace (root); FLAGS='--services 100 --repeat 1'
	@$(BIN)/python -m benchmarks.proxy $(FLAGS)

benchcontrollers: $(STAMP) ## CPU of the controller-manager for each pod; FLAGS='--only service --pods 1000 10000'
	@$(BIN)/python -m benchmarks.controllers $(FLAGS)

proto: $(STAMP) ## generate raykube/pb from protos/
	@cd protos && ../$(BIN)/python -m grpc_tools.protoc -I. --python_out=.. --pyi_out=.. raykube/pb/*.proto

clean: ## remove .venv and caches
	@rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist
