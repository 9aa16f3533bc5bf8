# SSD-KD: make orders, each binary decides what is fresh. `make help` lists the targets.

PIPELINE ?= pipelines/shapes.toml
RUNS     ?= runs
DATA     ?=
ARGS     ?=
ROUND    ?=

CARGO ?= cargo
BIN   := target/release
FLAGS := --runs $(RUNS) $(ARGS)

export SSDKD_DATA := $(DATA)

.PHONY: help build pipeline run invert balance sample distill evaluate report status test lint fmt bench bench-pytorch sanitize \
        data-cifar10 data-cifar100 teacher-shapes golden results python clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build every binary, optimised
	$(CARGO) build --release --workspace --bins

pipeline: build ## distil: all stages of all rounds, each stage its own process (PIPELINE=, DATA=, RUNS=, ARGS=)
	@$(BIN)/ssdkd plan $(PIPELINE) $(FLAGS) --shell $(BIN) | sh -e

run: build ## the same in one process, models kept in memory
	@$(BIN)/ssdkd run $(PIPELINE) $(FLAGS)

invert balance sample distill: build ## rerun one stage of one round (ROUND=n)
	@test -n "$(ROUND)" || { echo "make $@ needs ROUND=n" >&2; exit 2; }
	@$(BIN)/ssdkd-$@ $(PIPELINE) --round $(ROUND) $(FLAGS)

evaluate report status: build ## measure the students of a run; write its report; say what is fresh
	@$(BIN)/ssdkd $@ $(PIPELINE) $(FLAGS)

test: build ## unit, golden, property and end-to-end tests
	$(CARGO) test --release --workspace

lint: ## rustfmt and clippy, warnings refused
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings

fmt: ## format the sources
	$(CARGO) fmt --all

bench: ## kernels and whole steps on this machine
	$(CARGO) bench --workspace --bench kernels --bench steps

bench-pytorch: ## whole steps beside PyTorch's, interleaved: a table and target/bench/pytorch.json (ARGS=--help)
	@test -x .venv-bench/bin/python || python3 -m venv .venv-bench
	@.venv-bench/bin/python -c 'import torch' 2>/dev/null || .venv-bench/bin/pip install --quiet torch numpy
	$(CARGO) bench --workspace --bench steps --no-run
	.venv-bench/bin/python crates/ssdkd-method/benches/pytorch.py $(ARGS)

sanitize: ## the operations' tests under AddressSanitizer; leaks aside, as the caching allocator keeps blocks by design
	RUSTC_BOOTSTRAP=1 ASAN_OPTIONS=detect_leaks=0 RUSTFLAGS=-Zsanitizer=address $(CARGO) test --release -p ssdkd-ops --tests \
	  --target $$(rustc -vV | sed -n 's/^host: //p') --target-dir target/sanitize

data-cifar10: ## fetch CIFAR-10 from its authors' site into data/cifar10
	@data/fetch-cifar.sh 10

data-cifar100: ## fetch CIFAR-100 from its authors' site into data/cifar100
	@data/fetch-cifar.sh 100

teacher-shapes: build ## remake the shipped teacher (data/teachers/README.md)
	@data/teachers/make-shapes-teacher.sh

results: build ## docs/results.md and its charts from docs/results.json, to which finished runs are added (DONE="runs/a runs/b")
	@$(BIN)/ssdkd compare --out docs $(DONE)

python: ## .venv with pyarrow, DuckDB and Polars, to look into shards
	@test -x .venv/bin/python || python3 -m venv .venv
	@.venv/bin/python -c 'import pyarrow, duckdb, polars' 2>/dev/null || \
	  .venv/bin/pip install --quiet pyarrow duckdb polars numpy

golden: ## remake the golden values (needs PyTorch in PYTHON's environment)
	@for script in tests/golden/*.py; do case $$script in *check_*|*networks.py) ;; *) $${PYTHON:-python3} $$script ;; esac; done

clean: ## remove build output (runs are yours: remove them by hand)
	$(CARGO) clean
