# SPDX-License-Identifier: BSD-2-Clause
VENV := .venv
PYTHON := $(VENV)/bin/python
.PHONY: help venv test bench clean

help: ## show the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

venv: $(VENV)/.installed ## make .venv with everything the project needs

$(VENV)/.installed: pyproject.toml
	@echo "Installing Python packages into $(VENV) (about 400 MB of downloads the first time)"
	test -x $(PYTHON) || python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet -e '.[sim,boards,dev]'
	touch $@

test: venv ## run the tests
	$(PYTHON) -m pytest

bench: venv ## measure the simulated device against peer, limit and targets (some minutes)
	$(VENV)/bin/unvirt bench

clean: ## remove what was built
	rm -rf build
