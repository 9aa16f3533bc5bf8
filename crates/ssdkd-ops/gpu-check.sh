#!/bin/sh
# Checks the GPU's side of everything on a machine that has one: tests, steps beside PyTorch's, whole runs.
#
#     crates/ssdkd-ops/gpu-check.sh --pack [FOLDER]     build the programs for it, stripped, into FOLDER and FOLDER.tar.gz
#     crates/ssdkd-ops/gpu-check.sh [RECIPE…]           check with them: no compiler and no network are asked for
#
# What goes wrong in one part does not stop the others, and each has its own limit. What there is is in $OUT at any moment:
# summary.json, log.txt, and of the benchmark pytorch.json and pytorch.md. It exits with 1 if anything failed.
#
#     BIN            the folder, or its archive                         target-cuda/check
#     OUT            where results go                                   target/gpu-check
#     DEVICE         cuda or cuda:N (cpu: to try this script)           cuda
#     PARTS          some of: tests bench runs                          all
#     TEST_SECONDS   for all tests together                             150
#     BENCH_SECONDS  for the benchmark                                  240
#     RUN_SECONDS    for each recipe                                    90
#     BENCH_ARGS     more for benches/pytorch.py, such as --graphs
#     RUN_ARGS       more for `ssdkd run`, such as --set run.rounds=5
#     SSDKD_GPU_GRAPHS=on  runs replay steps of the generator and of distillation as CUDA graphs; the benchmark has rows with and without in any case
#     CUDA           "" with --pack: without the feature cuda, into target/check
set -u

cd "$(dirname "$0")/../.." || exit 1
top=$(pwd)

# --- Packing -----------------------------------------------------------------------------------------------------------

# Names of the executables among cargo's messages: a test program's package and target, the benchmark's target.
executables() {
  python3 -c '
import json, pathlib, sys
for line in sys.stdin:
    message = json.loads(line) if line.startswith("{") else {}
    if message.get("reason") == "compiler-artifact" and message.get("executable"):
        target = message["target"]
        package = pathlib.Path(message["manifest_path"]).parent.name
        kind, name = target["kind"][0], target["name"]
        if message["profile"]["test"] and kind != "bench":
            if package == "ssdkd":
                continue  # large, and nothing of a GPU
            of = "lib" if kind == "lib" else name
            name = f"test-{package}-{of}"
        elif name not in ("ssdkd", "steps"):
            continue
        print(name, message["executable"])
'
}

# What the programs are made of: with it, those of other sources are known.
sources() {
  find Cargo.toml Cargo.lock crates -type f \( -name '*.rs' -o -name '*.cu' -o -name '*.toml' -o -name '*.lock' \) |
    LC_ALL=C sort | xargs cat | sha256sum | cut -c 1-16
}

pack() {
  set -e
  cuda=${CUDA-yes}
  folder=${1:-$([ -n "$cuda" ] && echo target-cuda || echo target)/check}
  mkdir -p "$folder"
  rm -f "$folder"/*
  build() { # cargo's settings and features are the same for all
    if [ -n "$cuda" ]; then
      [ -f .cuda/cargo.toml ] || crates/ssdkd-ops/cuda-toolkit.sh
      ${CARGO:-cargo} --config .cuda/cargo.toml "$@" --features cuda
    else
      ${CARGO:-cargo} "$@"
    fi
  }
  list=$(mktemp)
  # One selection of packages, so that candle is compiled once.
  build build --release --message-format=json-render-diagnostics \
    -p ssdkd -p ssdkd-ops -p ssdkd-nn -p ssdkd-method --lib --tests --bench steps --bin ssdkd > "$list"
  executables < "$list" | while read -r name file; do strip -o "$folder/$name" "$file"; done
  rm "$list"
  sources > "$folder/sources"
  tar -czf "$folder.tar.gz" -C "$folder" .
  du -h "$folder"/* "$folder.tar.gz"
}

if [ "${1:-}" = --pack ]; then
  pack "${2:-}"
  exit
fi

# --- Checking ----------------------------------------------------------------------------------------------------------

out=${OUT:-target/gpu-check}
device=${DEVICE:-cuda}
parts=${PARTS:-tests bench runs}
[ $# -gt 0 ] || set -- pipelines/shapes.toml
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 1
log=$out/log.txt
checks=$(mktemp) # one JSON object a line
work=$(mktemp -d)
trap 'rm -rf "$checks" "$work"' EXIT
: > "$log"
rm -f "$out"/pytorch.*

bin=${BIN:-target-cuda/check}
if [ -f "$bin" ]; then
  mkdir "$work/bin" && tar -xzf "$bin" -C "$work/bin" || exit 1
  bin=$work/bin
fi
bin=$(cd "$bin" && pwd) || exit 1

# PyTorch's copies of CUDA's libraries, for programs that find no others.
if [ -z "${SSDKD_CUDA_LIBS:-}" ]; then
  SSDKD_CUDA_LIBS=$(python3 -c 'import nvidia; print(list(nvidia.__path__)[0])' 2>/dev/null) && export SSDKD_CUDA_LIBS
fi

text() { printf '%s' "$1" | tr '\n\t' '  ' | tr -d '\000-\037' | sed 's/\\/\\\\/g; s/"/\\"/g'; }

# The JSON of a file, or null.
json() { if python3 -m json.tool "$1" 2>/dev/null; then :; else echo null; fi; }

summarise() {
  count() { grep -c "\"status\": \"$1\"" "$checks"; }
  {
    printf '{\n"device": "%s",\n"gpu": "%s",\n"sources": "%s",\n' "$(text "$device")" "$(text "$gpu")" "$(text "$made_of")"
    printf '"passed": %s, "failed": %s, "timed_out": %s, "skipped": %s,\n' \
      "$(count passed)" "$(count failed)" "$(count 'timed out')" "$(count skipped)"
    printf '"checks": [\n%s\n],\n"benchmark": ' "$(sed '$!s/$/,/' "$checks")"
    json "$out/pytorch.json"
    printf '}\n'
  } > "$out/summary.new"
  mv "$out/summary.new" "$out/summary.json"
}

# note PART NAME STATUS SECONDS WORDS [JSON]
note() {
  printf '{"part": "%s", "name": "%s", "status": "%s", "seconds": %s, "note": "%s", "report": %s}\n' \
    "$1" "$(text "$2")" "$3" "$4" "$(text "$5")" "${6:-null}" >> "$checks"
  printf '%-10s %-32s %-10s %4s s  %s\n' "$1" "$2" "$3" "$4" "$5"
  summarise
}

# limited PART NAME SECONDS COMMAND…: runs it with its output into the log; sets status, spent and said (its last lines).
limited() {
  part=$1 name=$2 seconds=$3
  shift 3
  printf '\n=== %s %s: %s\n' "$part" "$name" "$*" >> "$log"
  began=$(date +%s)
  # Without a terminal: one that is asked for something in the background stops, and its timeout with it.
  setsid -w timeout -k 5 "$seconds" "$@" > "$work/said" 2>&1 < /dev/null
  code=$?
  spent=$(($(date +%s) - began))
  cat "$work/said" >> "$log"
  printf '=== exit code %s after %s s\n' "$code" "$spent" >> "$log"
  case $code in
    0) status=passed ;;
    124 | 137) status='timed out' ;;
    *) status=failed ;;
  esac
  said=$(tail -n 1 "$work/said")
}

tests() {
  end=$(($(date +%s) + ${TEST_SECONDS:-150}))
  # The last one again with the algorithms that are taken when nobody asks for the same bytes.
  for program in "$bin"/test-* "$bin"/test-ssdkd-method-parity:fastest; do
    algorithms=
    case $program in *:fastest) algorithms=fastest ;; esac
    file=${program%:fastest}
    name=$(basename "$program" | sed 's/^test-//')
    left=$((end - $(date +%s)))
    if [ "$left" -lt 1 ]; then
      note tests "$name" skipped 0 'no time left'
      continue
    fi
    # As cargo says it: the golden values are beside the package.
    package=$top/crates/$(basename "$file" | sed 's/^test-//; s/-[^-]*$//')
    limited tests "$name" "$left" env "CARGO_MANIFEST_DIR=$package" "SSDKD_TEST_DEVICE=$device" \
      "SSDKD_TEST_ALGORITHMS=$algorithms" "$file" --show-output
    result=$(grep '^test result:' "$work/said" | tail -n 1 | sed 's/; 0 measured.*//')
    # The list at the end, after everything that they said.
    broken=$(awk '/^(successes|failures):$/ { names = ""; of = $1 } /^    [^ ]+$/ && of == "failures:" { names = names " " $1 }
      END { print names }' "$work/said")
    note tests "$name" "$status" "$spent" "${result:-$said}${broken:+;$broken}"
  done
}

bench() {
  all=${BENCH_SECONDS:-240}
  # shellcheck disable=SC2086 -- several words
  limited bench pytorch "$((all + 30))" env PYTHONUNBUFFERED=1 python3 crates/ssdkd-method/benches/pytorch.py \
    --device "$device" --ours "$bin/steps" --seconds "$((all * 7 / 10))" --compile "$((all * 3 / 10))" \
    --out "$out/pytorch.json" ${BENCH_ARGS:-}
  means=$(grep '^geometric mean\|rows measured' "$work/said" | tr '\n' ' ')
  note bench pytorch "$status" "$spent" "${means:-$said}"
}

runs() {
  for recipe in "$@"; do
    folder=$(mktemp -d "$work/run.XXXX")
    # shellcheck disable=SC2086 -- several words
    limited runs "$recipe" "${RUN_SECONDS:-90}" \
      "$bin/ssdkd" run "$recipe" --device "$device" --runs "$folder" ${RUN_ARGS:-}
    whole_status=$status whole_spent=$spent whole_said=$said
    # What a run that was cut short has made is worth a look, too.
    # shellcheck disable=SC2086 -- several words
    [ "$status" = passed ] || limited runs "$recipe: report" 30 \
      "$bin/ssdkd" report "$recipe" --device cpu --runs "$folder" ${RUN_ARGS:-}
    report=$(cat "$folder"/*/report/summary.json 2>/dev/null || echo null)
    reached=$(printf '%s' "$report" | sed -n 's/^  "student_accuracy": \(.*\),$/student accuracy \1/p')
    note runs "$recipe" "$whole_status" "$whole_spent" "${reached:-$whole_said}" "$(printf '%s' "$report" | tr '\n' ' ')"
    for run in "$folder"/*/; do
      limited runs "$recipe: verify" 30 "$bin/ssdkd" verify "$run"
      note runs "$recipe: verify" "$status" "$spent" "$said"
    done
    rm -rf "$folder"
  done
}

made_of=$(cat "$bin/sources" 2>/dev/null)
gpu=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | head -n 1)
summarise
if [ "$made_of" = "$(sources)" ]; then
  note programs sources passed 0 "$made_of"
else
  note programs sources failed 0 "they are of other sources (${made_of:-unknown}) than these ($(sources)): gpu-check.sh --pack"
fi
for part in $parts; do
  case $part in
    tests) tests ;;
    bench) bench ;;
    runs) runs "$@" ;;
    *) echo "gpu-check.sh: there is no part $part: tests, bench, runs" >&2; exit 2 ;;
  esac
done
echo "written to $out/summary.json and $log"
! grep -qE '"status": "(failed|timed out|skipped)"' "$checks"
