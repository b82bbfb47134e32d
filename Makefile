# SPDX-License-Identifier: Apache-2.0
# Every target but clean and help sets up what it needs first; all are safe to repeat.

BIN := .venv/bin
KERNEL := 6.1

# Without byte code each of the hundreds of processes that tests start compiles kmind anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup guests bpf demo test vm-test vm test-clean lint bench reference docs clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: ## install what is missing: Debian packages (as root), .venv, BPF objects
	@bash tools/setup.sh

guests: ## make what the guests boot from: qemu, four of Debian's kernels, roots (root; 3 minutes)
	@bash tools/setup.sh --guests
	@bash tools/guests.sh
	@bash tools/guest_arm64.sh

bpf: ## compile the BPF objects that are out of date
	@python3 hatch_build.py

demo: setup ## run the whole loop once on this machine's own disk, and put everything back
	$(BIN)/kmind demo

test: guests ## run every test that this machine can run, those in guests included
	@bash tools/test.sh

vm-test: guests ## run only the tests in guests, two at once
	@bash tools/test.sh --guests

vm: guests ## a shell in a guest, on its console; KERNEL=6.1, 6.12 or newest
	@PYTHONPATH=tests $(BIN)/python -m vm.shell $(KERNEL)

test-clean: ## run demo and plain tests in clean systems of Debian 12 and 13 (root; 15 minutes)
	@bash tools/setup.sh --clean-roots
	@bash tools/clean.sh

lint: setup ## run only the tests of style, types and layout
	$(BIN)/python -m pytest tests/test_lint.py tests/test_imports.py

bench: setup ## measure the numbers in docs/benchmarks.md
	$(BIN)/kmind bench queue
	$(BIN)/kmind bench readahead
	$(BIN)/kmind bench admission
	$(BIN)/kmind bench evidence
	$(BIN)/kmind bench replay
	$(BIN)/kmind bench infer
	$(BIN)/kmind bench iolat
	$(BIN)/kmind bench autotune

reference: setup ## make man pages, shell completion and docs/commands.md from the commands' records
	$(BIN)/python -m kmind.cli.reference .

docs: setup ## build the documentation into docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html

clean: ## remove what was built; .venv and the guests in .cache stay
	rm -rf dist build docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name '*.bpf.o' -delete
	find src tests -name __pycache__ -prune -exec rm -rf {} +
