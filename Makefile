# whilst: `make demo` and `make test` need Debian (or the like), Python 3.11 or later, a Rust toolchain and gcc. They make a
# virtual environment of their own here and install nothing outside of it.
#
# PYTHON=python3.13 make test   uses that interpreter, in .venv-3.13
# What is done is remembered in stamp files inside the virtual environment, so a second call does only what changed.

PYTHON ?= python3

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.ONESHELL:
MAKEFLAGS += --no-print-directory

# The interpreter's name for directories: "3.13", or "3.13t" for a build without the GIL. The default interpreter has .venv and
# cargo's own target/; another one has directories beside them, so that neither is built again when they take turns.
TAG := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2] + sys.abiflags)')
ifeq ($(TAG),)
$(error $(PYTHON) is no Python that runs)
endif
ifeq ($(PYTHON),python3)
VENV := .venv
CARGO_TARGET := target
else
VENV := .venv-$(TAG)
CARGO_TARGET := target/python-$(TAG)
endif
BIN := $(CURDIR)/$(VENV)/bin
WHEELS := build/wheels-$(TAG)
STAGE := scripts/stage

RUST_SOURCES := $(shell find crates -name '*.rs' -o -name Cargo.toml) Cargo.toml Cargo.lock
PYTHON_SOURCES := $(shell find python -type f -not -name '*.pyc')

.PHONY: help
help: ## say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

# -- Setting up ---------------------------------------------------------------------------------------------------------------

$(VENV)/.made:
	@scripts/make-venv $(PYTHON) $(VENV)
	touch $@

$(VENV)/.build-tools: pyproject.toml $(VENV)/.made
	@$(STAGE) "tools of the build" $(BIN)/pip install -q --group build
	touch $@

$(VENV)/.test-tools: pyproject.toml tests/requirements.txt $(VENV)/.made
	@$(STAGE) "what the tests need" $(BIN)/pip install -q --group lint -r tests/requirements.txt
	touch $@

$(VENV)/.whilst: $(RUST_SOURCES) $(PYTHON_SOURCES) pyproject.toml README.md $(VENV)/.build-tools
	@rm -rf $(WHEELS) $(VENV)/.profiled
	$(STAGE) "wheel (release) for Python $(TAG)" \
	    $(BIN)/maturin build --quiet --release --locked --interpreter $(BIN)/python --target-dir $(CARGO_TARGET) --out $(WHEELS)
	$(STAGE) "install" $(BIN)/pip install -q --force-reinstall --no-deps $(WHEELS)/whilst-*.whl
	touch $@

.PHONY: test-tools
test-tools: $(VENV)/.test-tools # for scripts

.PHONY: build
build: $(VENV)/.whilst ## build the wheel and install it into the virtual environment

# It touches the other wheel's stamp, too, so that `make test` after it takes this one until a source changes.
$(VENV)/.profiled: $(RUST_SOURCES) $(PYTHON_SOURCES) pyproject.toml scripts/pgo $(VENV)/.build-tools
	@$(STAGE) "wheel by a profile for Python $(TAG)" scripts/pgo $(BIN) $(WHEELS) $(CARGO_TARGET)/pgo
	touch $(VENV)/.whilst $@

.PHONY: pgo
pgo: $(VENV)/.profiled ## build and install the wheel as it is released, by a profile of the benchmark's rows; needs llvm-profdata (Debian: llvm-22)

# -- The two commands ---------------------------------------------------------------------------------------------------------

.PHONY: demo
demo: build ## run the introduction's example under the command `whilst`
	@$(BIN)/whilst examples/introduction.py

# The loop's own tests come last, so that the last line counts what a reader asks for first.
.PHONY: test
test: test-rust test-types test-conformance test-benches test-python ## all tests

# -- Its parts ----------------------------------------------------------------------------------------------------------------

# All crates but the extension, whose tests are Python's.
RUST_TESTS := --locked --workspace --exclude whilst-python

.PHONY: test-rust
test-rust: ## the engine's tests, in Rust
	@if cargo nextest --version >/dev/null 2>&1; then
	    $(STAGE) "Rust: unit and property tests" \
	        cargo nextest run --cargo-quiet --status-level slow --final-status-level fail $(RUST_TESTS)
	    $(STAGE) "Rust: examples in the documentation" cargo test --quiet --doc $(RUST_TESTS)
	else
	    $(STAGE) "Rust: all tests" cargo test --quiet $(RUST_TESTS)
	fi

# Stubtest imports the installed package and compares it with what its types say.
.PHONY: test-types
test-types: build $(VENV)/.test-tools ## mypy --strict, and the types against the installed package
	@$(STAGE) "mypy" $(BIN)/mypy
	$(STAGE) "stubtest" $(BIN)/python -m mypy.stubtest whilst --mypy-config-file pyproject.toml --allowlist tests/stubtest.txt

.PHONY: test-conformance
test-conformance: build $(VENV)/.test-tools ## CPython's own asyncio tests on this loop: the modules that must be whole
	@$(STAGE) "conformance" $(BIN)/python tests/conformance -j 2

.PHONY: test-benches
test-benches: build $(VENV)/.test-tools ## that the benchmarks run and compute right
	@$(STAGE) "benchmarks' own tests" $(BIN)/python -m pytest -q benches

.PHONY: test-python
test-python: build $(VENV)/.test-tools ## the loop, the command, the frameworks and the examples, on both drivers; PYTEST="tests/soak -x" for some
	@$(STAGE) "pytest" $(BIN)/python -m pytest $(PYTEST)

# In two parts of about the same length, for who has two cores.
LOOP_TESTS_1 := tests/test_[a-l]*.py
LOOP_TESTS_2 := --ignore-glob 'tests/test_[a-l]*.py'

.PHONY: test-loop
test-loop: build $(VENV)/.test-tools ## the loop's own tests: those of test-python without frameworks, examples, page and soak; PART=1 or PART=2
	@$(STAGE) "pytest: the loop" $(BIN)/python -m pytest -q --ignore tests/frameworks --ignore tests/examples \
	    --ignore tests/page \
	    --ignore tests/soak --ignore tests/test_types.py $(LOOP_TESTS_$(PART))

.PHONY: lint
lint: lint-rustfmt lint-clippy lint-ruff lint-mypy ## rustfmt, clippy (warnings denied), ruff, mypy

.PHONY: lint-rustfmt
lint-rustfmt:
	@$(STAGE) "rustfmt" cargo fmt --all --check

.PHONY: lint-clippy
lint-clippy: $(VENV)/.made
	@PYO3_PYTHON=$(BIN)/python $(STAGE) "clippy" \
	    cargo clippy --quiet --locked --workspace --all-targets -- -D warnings

.PHONY: lint-ruff
lint-ruff: $(VENV)/.test-tools
	@$(STAGE) "ruff check" $(BIN)/ruff check
	$(STAGE) "ruff format" $(BIN)/ruff format --check

.PHONY: lint-mypy
lint-mypy: $(VENV)/.test-tools
	@$(STAGE) "mypy" $(BIN)/mypy

.PHONY: format
format: $(VENV)/.test-tools ## lay out Rust and Python as `make lint` wants them
	@cargo fmt --all
	$(BIN)/ruff check --fix --select I
	$(BIN)/ruff format

BENCH_OUT := build/bench-$(TAG)

# What is measured is what is released, where the profile can be had; the table says which it was.
BENCHED := build
ifneq ($(filter bench,$(MAKECMDGOALS)),)
ifneq ($(shell scripts/pgo --tool),)
BENCHED := pgo
endif
endif

.PHONY: bench
bench: $(BENCHED) ## measure beside asyncio and other loops, up to 30 min; BENCH="--quick --rows echo" passes arguments on
	@mkdir -p $(BENCH_OUT)
	$(BIN)/python benches/run.py --install --json $(BENCH_OUT)/results.json --markdown $(BENCH_OUT)/tables.md \
	    --chart $(BENCH_OUT)/chart.svg $(BENCH)
	echo "also in $(BENCH_OUT): results.json, tables.md and chart.svg; make bench-readme puts them into the README"

.PHONY: bench-readme
bench-readme: $(VENV)/.made ## put what `make bench` has measured into the README, and its chart into docs/
	@$(BIN)/python benches/run.py --from $(BENCH_OUT)/results.json --chart docs/benchmark-$(TAG).svg --readme README.md >/dev/null

# The counts that are kept are of one build of Python, CI's 3.11, on which to run these two.
.PHONY: guard
guard: build ## that no row of the guard takes more instructions than benches/instructions.json says; needs valgrind
	@$(STAGE) "instructions per operation" $(BIN)/python benches/instructions.py --check benches/instructions.json $(GUARD)

.PHONY: guard-update
guard-update: build ## count the instructions anew, and keep them in benches/instructions.json
	@$(STAGE) "instructions per operation" $(BIN)/python benches/instructions.py --json benches/instructions.json

.PHONY: screenshot
screenshot: build $(VENV)/.test-tools ## docs/trace.png anew: the introduction's example, traced and drawn; needs Debian's chromium
	@$(STAGE) "screenshot" $(BIN)/python scripts/screenshot

SOAK_SECONDS ?= 30

.PHONY: pythons
pythons: ## fetch or build the Pythons that Debian stable has not (3.14, 3.15, 3.14t), where they are missing; root, ten minutes
	@for version in 3.14 3.15; do
	    $(STAGE) "Python $$version, from Debian's sid" scripts/pythons/get-debian "$$version"
	done
	$(STAGE) "Python 3.14t, from Debian's source" scripts/pythons/get-free-threaded

.PHONY: conformance
conformance: ## CPython's own asyncio tests on every Python that is here; VERSIONS="3.13 3.14" for some
	@scripts/conformance $(VERSIONS)

.PHONY: wheels
wheels: ## an sdist and a wheel for each Python that is here into dist/, each tried in a clean environment
	@scripts/wheels

# For scripts.
.PHONY: print-bin print-wheels
print-bin:
	@echo $(BIN)
print-wheels:
	@echo $(WHEELS)

.PHONY: soak
soak: build $(VENV)/.test-tools ## servers under load for SOAK_SECONDS (30) each, looking for errors and growth; needs wrk
	@command -v wrk >/dev/null || { echo "there is no wrk on the PATH (Debian: apt-get install wrk)" >&2; exit 1; }
	WHILST_SOAK_SECONDS=$(SOAK_SECONDS) $(STAGE) "soak" $(BIN)/python -m pytest tests/soak

.PHONY: clean
clean: ## remove all that was built and installed here
	@rm -rf .venv .venv-* build target dist .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
