# SPDX-License-Identifier: GPL-3.0-or-later
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo demo-down lab-up lab-down setup-2.18 site test test-unit test-versions test-rules test-faults test-offline fault fault-heal lint build bench bench-hosts soak

PYTHON ?= python3
LAB_NAME ?= kubemetrics
# Documents show the run of the usual sizes only.
BENCH_FLAGS ?= $(if $(BENCH_SIZES),,--docs)
VENV := $(CURDIR)/.venv
STATE := $(CURDIR)/.lab/$(LAB_NAME)
# Ansible finds a collection by its name only: this link makes any checkout, whatever its folder is called, the collection.
TREE := $(CURDIR)/.ansible/collections/ansible_collections/kubemetrics/aggregation

export LAB_NAME

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile

setup: $(VENV)/.ready $(TREE) ## Install the pinned Python tools into .venv

$(VENV)/.ready: requirements.txt
	@.ci/venv "$(PYTHON)" "$(VENV)" requirements.txt

# The oldest Ansible that is supported.
setup-2.18: $(VENV)-2.18/.ready $(TREE)

$(VENV)-2.18/.ready: tests/requirements/ansible-2.18.txt
	@.ci/venv "$(PYTHON)" "$(VENV)-2.18" $<

$(TREE):
	@mkdir -p "$(@D)" && ln -sfn "$(CURDIR)" "$@"

demo: ## A real cluster on this machine, site.yml, kubectl top (10 to 20 minutes the first time, 2 later)
	@.ci/demo

demo-down: lab-down ## Remove the demo with everything that it left

lab-up: setup ## Bring up (or resume) a lab cluster
	@. .ci/env && ansible-playbook lab/up.yml

lab-down: setup ## Remove the lab cluster; the cache of binaries and images stays
	@. .ci/env && ansible-playbook lab/down.yml

site: setup ## Run playbooks/site.yml against the lab
	@. .ci/env && ansible-playbook -i "$(STATE)/inventory.yml" playbooks/site.yml

fault: setup ## Break the demo in one way that doctor names: make fault ID=KUB-04 (without ID: the list)
	@. .ci/env && $(if $(ID),ansible-playbook -i "$(STATE)/inventory.yml" lab/fault.yml -e fault=$(ID) $(if $(ON),-e fault_on=$(ON)),lab/faults/run.py --list)

fault-heal: setup ## Undo it: make fault-heal ID=KUB-04
	@. .ci/env && ansible-playbook -i "$(STATE)/inventory.yml" lab/fault.yml -e fault=$(ID) -e fault_state=heal

test-faults: setup ## Each fault in the lab: its symptom, doctor, repair (FAULTS="KUB-04 NET-04"; else everything, for hours)
	@. .ci/env && lab/faults/run.py $(if $(FAULTS),--inventory "$(STATE)/inventory.yml" $(FAULTS),--all --keep-going) $(FAULT_FLAGS)

test: ## All tests, each stage with its duration
	@.ci/test

test-unit: setup setup-2.18 ## Unit tests only, on ansible-core 2.18 and 2.19
	@.ci/test unit server

test-versions: setup setup-2.18 ## Unit tests on the newest Ansible, host modules on Python 3.8 and 3.9, where this machine has them
	@.ci/test versions

test-rules: setup ## Alerts and dashboard, by promtool and by Prometheus itself (builds them the first time)
	@.ci/test rules

test-offline: setup ## A lab without any route out: installed from the bundle, then from a registry of its own (10 minutes)
	@.ci/test offline

test-takeover: setup ## A lab with another metrics server: taken over by a run that is killed, finished by the next, handed back (6 minutes)
	@.ci/test takeover

lint: setup ## ansible-lint, yamllint, ruff, mypy, role documentation
	@.ci/test lint

bench: setup ## The bundled server against upstream's, side by side; writes docs/bench.md (35 minutes, nothing else running)
	@. .ci/env && PYTHONPATH=metrics_server/src:metrics_server/tests python bench/run.py $(BENCH_SIZES) $(BENCH_FLAGS)

bench-hosts: setup ## An unchanged site.yml with 1, 10, 50 and 200 replayed hosts (BENCH_HOSTS="20 40" for others)
	@. .ci/env && python bench/hosts.py replay $(or $(BENCH_HOSTS),--docs)

soak: setup ## The bundled server for half an hour while kubelets fail and return (SOAK_NODES, SOAK_MINUTES)
	@. .ci/env && PYTHONPATH=metrics_server/src:metrics_server/tests python bench/soak.py \
		--nodes $(or $(SOAK_NODES),1000) --minutes $(or $(SOAK_MINUTES),30)

build: setup ## Build the collection archive into dist/
	@. .ci/env && ansible-galaxy collection build --force --output-path dist .
