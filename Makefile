# Set-up and short names; the logic is in tasks.py and what it gathers. `make help` lists the targets.

SHELL := /bin/sh
VENV := .venv
INVOKE := $(VENV)/bin/invoke
# `make PYTHON=…` names the interpreter to make .venv with (make hands it on); else requirements/check looks for one.
# A checkout that was moved, and one whose Python is gone, gets its .venv anew.
STALE := $(shell sh requirements/check venv || echo stale)
# What a target is about to do, as requirements/check has it; a target's word is also that of what it needs.
PURPOSE := setup
# `all`: the packages of the slow tests, the bench and the nightly run too.
SYSTEM :=
# `--option value` for a variable given on make's command line; one of the environment may be meant for others.
given = $(if $(findstring command line,$(origin $(1))),--$(2) '$($(1))')

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help preflight system setup up down status build-all check fmt one test test-all bench nightly lock clean again

help:           ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1 	/p' Makefile | expand -t 12

up: PURPOSE := build
up: setup       ## everything: tools, images, RPM, a cluster of three hosts, and the proof that it works
	@$(INVOKE) up $(call given,BACKEND,backend) $(call given,BASE,base) $(call given,UNDERLAY,underlay)

down: PURPOSE := down
down: $(if $(wildcard $(VENV)),preflight $(VENV)/.complete) ## remove the cluster, and the dockerd that `make up` started
	@if [ -d $(VENV) ]; then $(INVOKE) down; else echo "nothing to remove: nothing was set up in this checkout"; fi

status: setup   ## what runs, host by host
	@$(INVOKE) cluster.status

build-all: PURPOSE := build
build-all: setup ## every image and the RPM
	@$(INVOKE) build-all

# These three need Python alone, and nobody's rights; `one` says so where its test needs more.
check: PURPOSE := tests
check: preflight $(VENV)/.complete ## lint, types, and the tests that need no root, no etcd and no Docker
	@$(INVOKE) check

fmt: PURPOSE := tests
fmt: preflight $(VENV)/.complete ## format all code, and mend what the linter can
	@$(INVOKE) fmt

one: PURPOSE := tests
one: preflight $(VENV)/.complete ## one test, no images built: make one T=tests/kernel/test_ping.py::test_x
	@$(INVOKE) one $(call given,T,test)

test: PURPOSE := build
test: setup     ## every test but the slow ones, with all that they need; what CI runs
	@$(INVOKE) test

test-all: PURPOSE := build
test-all: SYSTEM := all
test-all: setup ## every test
	@$(INVOKE) test --all

bench: PURPOSE := build
bench: SYSTEM := all
bench: setup    ## measure, and print the figures
	@$(INVOKE) bench

nightly: PURPOSE := build
nightly: SYSTEM := all
nightly: setup  ## all tests and the bench within 80 minutes, as JUnit, JSON and one HTML page
	@$(INVOKE) nightly

setup: preflight system $(VENV)/.complete

preflight:      ## say what would make the set-up, or what is asked for with it, fail
	@sh requirements/check $(PURPOSE)

system:         ## install the system packages that are missing
	@sh requirements/install-system $(SYSTEM)

# Remade when the lock or the Makefile changes; complete only when pip was. pip is told to keep a warning to itself that
# Debian 12's gives of a package's old way of being installed.
$(VENV)/.complete: requirements/dev.txt pyproject.toml $(if $(STALE),again)
	@python=$$(sh requirements/check python) && echo "$$python -m venv $(VENV)" && "$$python" -m venv --clear $(VENV)
	$(VENV)/bin/pip install -qq --disable-pip-version-check --require-hashes --requirement requirements/dev.txt
	$(VENV)/bin/pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@pwd -P >$@

lock: setup     ## make the hashed locks in requirements/ anew from pyproject.toml
	@$(INVOKE) lock

clean: down     ## remove what was built; fetched packages stay in build/cache
	@if [ -d $(VENV) ]; then $(INVOKE) clean; fi
