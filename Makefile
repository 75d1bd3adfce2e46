# What people and CI type. Each target prepares what it needs; nothing has to be installed before but
# Python, cargo and a C compiler.
.PHONY: help setup test quick lint format rust pytest sim soak kth mutants bench bench-files \
	proto tables lock clean

PY := .venv/bin/python
CARGO := cargo
# One profile and one target directory for everything: artefacts are shared.
CARGO_FLAGS := --release --locked --manifest-path engine/Cargo.toml
ENGINE := --features python
export PATH := $(PATH):$(HOME)/.cargo/bin

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' Makefile

setup: ## the environment with what the tests need
	@tools/setup --dev

test: setup ## everything: checks, Rust tests, then Python tests layer by layer
	@tools/test

quick: setup ## the layers that need no processes and no mounts
	$(PY) -m pytest -q tests/t0_core tests/t1_store tests/t2_engine tests/t3_node tests/t4_api

lint: setup ## all checks that run nothing
	$(PY) -m ruff check --no-cache src tests bench
	$(PY) -m mypy
	$(PY) -m mypy.stubtest --concise --allowlist tests/stubtest.txt dfs._engine
	$(PY) -c "from importlinter.cli import lint_imports_command as run; run()" --no-cache
	$(PY) tests/tidy.py
	$(CARGO) fmt --check --manifest-path engine/Cargo.toml
	$(CARGO) clippy $(CARGO_FLAGS) $(ENGINE) --all-targets -- -D warnings

format: setup ## what the checks would ask for
	$(PY) -m ruff check --fix src tests bench
	$(CARGO) fmt --manifest-path engine/Cargo.toml

rust: ## the Rust tests
	$(CARGO) test $(CARGO_FLAGS)

pytest: setup ## the Python tests; T="-k name" for some of them
	$(PY) -m pytest $(T)

sim: setup ## thousands of faults on one thread, by seeds; SEED=17 replays one, N=5000 runs so many
	@PYTHONPATH=tests $(PY) -m sim $(if $(SEED),--seed $(SEED)) $(if $(N),--count $(N)) \
	    $(if $(FIRST),--first $(FIRST))

soak: setup ## long campaigns of faults, as root; S="kills power" only these (tools/soak lists them)
	tools/soak $(S)

kth: setup ## each k-th call to the disk fails, twelve kinds, ten minutes
	$(PY) -m dfs.nemesis.kth --full

mutants: setup ## bugs that the tests must notice, an hour; M="no-read-barrier" for some of them
	PYTHONPATH=tests $(PY) -m mutants $(M)

bench: setup ## dfs beside etcd in one table, three quarters of an hour; B="--quick" for options of bench/run
	bench/run $(B)

bench-files: setup ## dfs as a file system beside ext4, as root, ten minutes; B="--quick" for options
	bench/run --files $(B)

proto: setup ## the generated protobuf code
	tools/proto

tables: setup ## the tables of the documents, from the code
	$(PY) tests/tidy.py --write

lock: ## requirements.txt and requirements-dev.txt from pyproject.toml
	tools/lock

clean: ## removes what the targets made; not the data of any node
	rm -rf .venv .build bench/.work engine/target src/dfs/_engine.abi3.so
