# SPDX-License-Identifier: Apache-2.0
# `make run` and `make test` do everything on a fresh Debian machine: packages, virtual environment, guests.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := build/stamp

RUN_PACKAGES := gcc make binutils python3 python3-venv libatomic1
TEST_PACKAGES := $(RUN_PACKAGES) acpica-tools qemu-system-x86 linux-source-6.12 libc6-dev \
	flex bison bc libelf-dev patch perl tar xz-utils gzip zstd lz4 busybox-static ccache

STRESS := --machine vsm=on --cpus 4 --append "seconds=600 patience=120"

.PHONY: help run run-linux test test-pure test-host test-lab lab-test lab-shell kernel kernel-upstream kernel-debug \
	guest-kernel lint bench nightly spec setup firmware clean
.NOTPARALLEL:
.DEFAULT_GOAL := help

help: ## show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: setup firmware ## boot the demo guests on /dev/kvm: what a guest finds, and two worlds in VTL0 and VTL1
	$(BIN)/vmm run firmware/build/demo.flat --cpus 2
	@# Its status is kvm-unit-tests': 1 when every check has passed.
	$(BIN)/vmm run firmware/build/worlds.flat --machine vsm=on --cpus 2; test $$? -eq 1

run-linux: setup guest-kernel ## boot that Linux on /dev/kvm, to a shell
	$(BIN)/vmm run build/guest-kernel/vmlinux --initrd build/guest-kernel/initrd.cpio --no-reboot \
		--append "console=ttyS0 panic=-1"

test: setup-test firmware test-pure test-host test-lab ## lint, types and all three rings of tests

test-pure: setup-test firmware ## what needs no /dev/kvm
	$(BIN)/pytest -n auto tests/pure

test-host: setup-test firmware guest-kernel ## what runs on this machine's /dev/kvm (in the lab where there is none)
	scripts/test_host_ring.sh

test-lab: setup-test firmware ## what boots kernels of its own under software emulation
	@# A lab keeps little more than one processor busy. The files that take longest come first.
	$(BIN)/pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder \
		$(addprefix tests/lab/test_,$(addsuffix .py,kernel_series vtl_guests protection)) tests/lab

lab-test: setup-test firmware guest-kernel ## the tests that need /dev/kvm, in the lab on both kernels; results in build/lab-test
	scripts/lab test

lab-shell: setup-test ## a shell on Linux 6.12 with a working /dev/kvm, under software emulation
	scripts/lab shell --kernel upstream

kernel: setup-test ## build the lab's kernel with our series (the tests do it when they need it)
	scripts/lab kernel patched

kernel-upstream: setup-test ## build the lab's unpatched kernel (likewise)
	scripts/lab kernel upstream

guest-kernel: setup-test ## build a Linux small enough for a KVM that emulates ring 0, and an initramfs; in build/guest-kernel
	scripts/guest_kernel.py

kernel-debug: setup-test ## our series under KASAN, lockdep and more; the kernel tests have to leave its log clean
	scripts/lab run --kernel debug --clean-log --time-limit 3600 --results build/lab-test/debug -- \
		$(BIN)/pytest tests/kernel --timeout 600 --junitxml=build/lab-test/debug/junit.xml

nightly: setup-test firmware ## the property tests of hypercalls with a million inputs, and ten minutes of VTL stress
	HYPERCALL_INPUTS=1000000 $(BIN)/pytest -o timeout=0 \
		tests/pure/hypercall/test_any_input.py tests/pure/backend/hyperv/test_any_call.py
	@# Their status is kvm-unit-tests': 1 when every check has passed.
	$(BIN)/vmm run firmware/build/vtlstress.flat $(STRESS) --time-limit 900; test $$? -eq 1
	scripts/lab run --kernel patched --time-limit 2400 -- \
		$(BIN)/vmm run firmware/build/vtlstress.flat $(STRESS) --time-limit 2000; test $$? -eq 1

lint: setup ## ruff and mypy alone
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench: setup firmware ## every benchmark, as ratios against a C loop or QEMU in the same run
	$(BIN)/python -m bench --all

spec: setup ## what of the Hyper-V and VSM checklist is implemented, and which test proved it where
	@$(BIN)/python -m scripts.spec

firmware: $(STAMP)/run-packages ## build the guests
	$(MAKE) -C firmware

setup: $(STAMP)/run-packages $(STAMP)/venv bytecode ## packages and virtual environment for `make run`
.PHONY: setup-test bytecode
setup-test: $(STAMP)/test-packages $(STAMP)/venv bytecode $(STAMP)/test-bytecode

# A guest should not wait for Python to compile the VMM, not even where PYTHONDONTWRITEBYTECODE is set.
bytecode: $(STAMP)/venv
	@$(BIN)/python -m compileall -q kvmapi vmm scripts

# Nor should the lab, where Python is slow and the checkout read-only, rewrite the assertions of each test module.
TESTS_WITH_KVM := $(shell find tests/conftest.py tests/kernel tests/host -name '*.py')
$(STAMP)/test-bytecode: $(TESTS_WITH_KVM) $(STAMP)/venv
	@echo "compiling the tests"
	@PYTHONDONTWRITEBYTECODE= $(BIN)/pytest --collect-only -q tests/kernel tests/host > $@.log || { cat $@.log; false; }
	@mv $@.log $@

$(STAMP)/run-packages $(STAMP)/test-packages: Makefile scripts/install_packages.sh
	scripts/install_packages.sh $(if $(findstring test,$@),$(TEST_PACKAGES),$(RUN_PACKAGES))
	@mkdir -p $(STAMP) && touch $@

$(STAMP)/venv: pyproject.toml | $(STAMP)/run-packages
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]' --config-settings editable_mode=compat
	@mkdir -p $(STAMP) && touch $@

clean: ## remove what was built (the virtual environment and kernel caches stay)
	rm -rf build/stamp
	$(MAKE) -C firmware clean
