# SPDX-License-Identifier: BSD-2-Clause
# Every target sets up what it needs; `make help` lists them.

VENV := .venv
PYTHON := $(VENV)/bin/python
UNVIRT := $(VENV)/bin/unvirt
PROCESSES ?= 2

# The yosys that comes with Amaranth, whatever the system has.
export AMARANTH_USE_YOSYS := builtin

.PHONY: help venv demo test test-all verilog synth bench formal episodes mutants coverage lint docs clean

help: ## show this
	@echo "unvirt: a virtio-net PCIe device as real hardware. Targets of this Makefile:"
	@echo
	@sed -n 's/^\([a-z-]*\):.*## /  \1@/p' $(MAKEFILE_LIST) | while IFS=@ read -r name text; do printf '  %-10s %s\n' $$name "$$text"; done
	@echo
	@echo "Each target installs what is missing first: Python packages into $(VENV), programs such as g++ as root by apt."
	@echo "Debian's QEMU, kernels, busybox and passt go to ~/.cache/unvirt (or \$$XDG_CACHE_HOME/unvirt), nothing of them is installed."
	@echo "PROCESSES=n sets how many tests run at once (now $(PROCESSES))."

venv: $(VENV)/.installed ## make .venv with the Python packages (about 170 MB to download, 700 MB on disk)

$(VENV)/.installed: pyproject.toml scripts/system-packages
	@scripts/system-packages
	@echo "Installing the Python packages of the project into $(VENV): about 170 MB from the package index the first time, 700 MB on disk."
	@test -x $(PYTHON) || python3 -m venv $(VENV)
	@$(PYTHON) -m pip install --disable-pip-version-check --editable '.[sim,boards,dev]'
	@touch $@

demo: venv ## boot Linux 6.12 on the simulated RTL, ping, download by TCP (downloads 100 MB the first time)
	@echo "Booting an unmodified Debian Linux on the simulated RTL (QEMU, kernel, busybox and passt: about 75 MB of packages and 20 MB of package lists the first time)."
	@$(UNVIRT) boot

test: venv ## run the tests, a Linux boot among them
	$(PYTHON) -m pytest -n $(PROCESSES) --dist worksteal

test-all: venv ## run the tests and the long sweeps, more kernels, broken devices (an hour or more)
	$(PYTHON) -m pytest -n $(PROCESSES) --dist worksteal -m ''

verilog: venv ## write build/unvirt.v and what belongs to it
	@mkdir -p build
	$(UNVIRT) verilog --preset default -o build/unvirt.v

synth: venv ## synthesise for ECP5, place and route: 2 to 512 rows, and 256 bits (half an hour)
	$(UNVIRT) synth --preset minimal --rows 2,16,128,512 --processes $(PROCESSES)
	$(UNVIRT) synth --preset minimal --width 256 --json build/synth-256.json

bench: venv ## measure rates and latencies against their limits (minutes)
	$(UNVIRT) bench

formal: venv ## prove properties of the small blocks
	$(PYTHON) -m pytest -n $(PROCESSES) --dist worksteal -m '' tests/formal

episodes: venv ## play 100,000 episodes of a driver that breaks the rules (an hour or more)
	$(PYTHON) tests/episodes/play.py --processes $(PROCESSES)

mutants: venv ## try 500 mutants of the queue and DMA engines with the tests of the whole device (hours)
	$(PYTHON) tests/mutants/check.py --processes $(PROCESSES) --long

coverage: venv ## measure which lines and bits of the RTL the same tests reach (an hour or more)
	$(PYTHON) tests/coverage/measure.py --processes $(PROCESSES) --long --write-docs docs/coverage.md

lint: venv ## check the Python sources
	$(PYTHON) -m ruff check hdl sim boards tests

docs: venv ## check that every link of the documents leads somewhere
	$(PYTHON) -m pytest -q tests/docs

clean: ## remove what was built here (not the Python packages, not what is cached at home)
	rm -rf build
