# Each target sets up what it needs, on a fresh machine too; see scripts/bootstrap.sh.
SHELL := /bin/bash
BOOTSTRAP := scripts/bootstrap.sh
# Extra arguments: make demo ARGS='--episodes 2', make test ARGS='-k pairing'.
ARGS ?=
export PYTHON

# colcon-core does not work with setuptools 80 and later, torch wants a recent one: two environments.
COLCON_ENV := .venv-colcon
COLCON := colcon-core==0.21.3 colcon-common-extensions==0.3.0 colcon-ros==0.5.0 'setuptools<80'

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow lint colcon-env clean

help: ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup: ## install everything into .venv
	@$(BOOTSTRAP)

demo: ## simulator, policy and executor as ROS 2 processes: table, report, video
	@exec $(BOOTSTRAP) vla-prune demo $(ARGS)

# One worker more than cores: tests of nodes and processes mostly wait.
test: colcon-env ## lint and the test suite
	@$(BOOTSTRAP) ruff check --quiet . && lint=0 || lint=1; \
	$(BOOTSTRAP) python -m pytest -m 'not slow' -n $$(( $$(nproc) + 1 )) --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS); tests=$$?; \
	if [ $$lint != 0 ]; then echo 'lint failed: run make lint' >&2; fi; \
	exit $$((tests ? tests : lint))

test-slow: ## the tests that make test leaves out: Ray, all LIBERO tasks, memory, training
	@exec $(BOOTSTRAP) python -m pytest -m slow $(ARGS)

lint: ## style check only
	@exec $(BOOTSTRAP) ruff check .

colcon-env: $(COLCON_ENV)/.stamp ## a private colcon for the packaging test

$(COLCON_ENV)/.stamp: Makefile
	@$(BOOTSTRAP) python -m venv $(COLCON_ENV)
	@echo '*' >$(COLCON_ENV)/.gitignore
	@echo '==> installing colcon into $(COLCON_ENV)' >&2
	@$(COLCON_ENV)/bin/pip --disable-pip-version-check install $(COLCON) >$(COLCON_ENV)/install.log 2>&1 || \
	  { echo 'pip could not install colcon; log: $(COLCON_ENV)/install.log' >&2; exit 1; }
	@touch $@

clean: ## remove the environments and everything that was built
	rm -rf .venv .venv-* build install log dist out *.egg-info .pytest_cache .hypothesis .ruff_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
