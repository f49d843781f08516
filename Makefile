# Set-up and short names; the logic is in tasks.py and what it gathers. `make help` lists the targets.

SHELL := /bin/sh
VENV := .venv
INVOKE := $(VENV)/bin/invoke
# On a CentOS Stream host the platform's own python3 may be older than the 3.11 that we need.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	"$$p" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)

.DEFAULT_GOAL := help
.PHONY: help system setup up down status build-all test bench nightly lock clean

help:           ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1 	/p' $(MAKEFILE_LIST) | expand -t 12

up: setup       ## everything: tools, images, RPM, a cluster of three hosts, and the proof that it works
	@$(INVOKE) up

down:           ## remove the cluster, and the dockerd that `make up` started
	@if [ -x $(INVOKE) ]; then $(INVOKE) down; else echo "nothing to remove: $(VENV) was never made"; fi

status: setup   ## what runs, host by host
	@$(INVOKE) cluster.status

build-all: setup ## every image and the RPM
	@$(INVOKE) build-all

test: setup     ## every test, with all that they need
	@$(INVOKE) test

bench: setup    ## measure, and print the figures
	@$(INVOKE) bench

nightly: setup  ## all tests and the bench, as JUnit, JSON and one HTML page
	@$(INVOKE) nightly

setup: system $(VENV)/.complete

system:         ## install the system packages that are missing
	@sh requirements/install-system

# Remade when the lock or the Makefile changes; complete only when pip was.
$(VENV)/.complete: requirements/dev.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer with venv was found; set PYTHON=" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/dev.txt
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

lock: setup     ## make the hashed locks in requirements/ anew from pyproject.toml
	@$(INVOKE) lock

clean: down     ## remove what was built; fetched packages stay in build/cache
	@if [ -x $(INVOKE) ]; then $(INVOKE) clean; fi
