#!/bin/sh
# Stands before rustc (RUSTC_WORKSPACE_WRAPPER): compiles this workspace's crates so that libFuzzer sees which of their code an input
# reaches, and with their assertions.
exec "$@" --cfg fuzzing -Cdebug-assertions -Cpasses=sancov-module \
  -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
  -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
