#!/bin/sh
# Puts together what programs for a GPU are built with, in .cuda: a CUDA toolkit, and cargo's settings.
#
#     crates/ssdkd-ops/cuda-toolkit.sh
#     cargo --config .cuda/cargo.toml build --release --workspace --bins --features cuda
#
# With --simulated: what they are tested with where there is no GPU, in .cuda-simulated. Programs are the same but for
# candle's kernels, and compute on a GPU that is pretended (simulated-gpu/), slowly.
#
# Compilers and headers are those of an installed CUDA 13 (CUDA_HOME, PATH, /usr/local/cuda), or else NVIDIA's packages
# for Python, which this fetches. Needed besides: a C and C++ compiler. No GPU, no driver, no libraries of CUDA.
set -eu

fail() { echo "cuda-toolkit.sh: $1" >&2; exit 1; }

top=$(cd "$(dirname "$0")/../.." && pwd)
compiler=${CC:-cc}
case ${1:-} in
  '') cuda=$top/.cuda target=$top/target-cuda simulated='' ;;
  --simulated) cuda=$top/.cuda-simulated target=$top/target-simulated simulated=simulated ;;
  *) fail "there is no option $1: --simulated, or none" ;;
esac

# The folder of a toolkit: nvcc of CUDA 13, headers, and the static runtime library. Says where that library is.
runtime_of() {
  "$1/bin/nvcc" --version 2>/dev/null | grep -q 'release 13\.' && [ -f "$1/include/cuda_runtime.h" ] || return 1
  for library in "$1"/lib64 "$1"/lib "$1"/targets/*/lib; do
    [ ! -f "$library/libcudart_static.a" ] || { echo "$library/libcudart_static.a"; return 0; }
  done
  return 1
}

mkdir -p "$cuda"
if [ -n "$simulated" ]; then
  case $top in *' '*) fail "a simulated GPU takes a folder without spaces in its path, not $top" ;; esac
  # What was compiled for the one before: kernels of ours, and candle's, which cargo makes no other way.
  rm -rf "$cuda/cache" "$cuda"/kernels-* "$cuda/candle" "$target"/release/build/candle-kernels-* "$target"/release/.fingerprint/candle-kernels-*
  "$top/crates/ssdkd-ops/simulated-gpu/build.sh" "$cuda" || fail "the simulated GPU does not build (it takes a C++ compiler of C++20)"
  toolkit=$cuda runtime=$cuda/lib/libcudart_static.a
else
  on_path=$(command -v nvcc || true)
  toolkit=
  for folder in "${CUDA_HOME:-}" "${on_path%/bin/nvcc}" /usr/local/cuda "$cuda"/packages/lib/python3*/site-packages/nvidia/cu13; do
    if [ -n "$folder" ] && [ "$folder" != "$cuda" ] && runtime=$(runtime_of "$folder"); then toolkit=$folder; break; fi
  done
  if [ -z "$toolkit" ]; then
    echo "no CUDA 13 is installed: fetching its compiler and headers into .cuda" >&2
    rm -rf "$cuda/packages"
    python3 -m venv "$cuda/packages" || fail "python3 cannot make a virtual environment"
    "$cuda/packages/bin/pip" install --quiet --disable-pip-version-check 'cuda-toolkit[nvcc,cccl]==13.0.*' ||
      fail "NVIDIA's packages cannot be fetched: install CUDA 13 and set CUDA_HOME"
    toolkit=$(echo "$cuda"/packages/lib/python3*/site-packages/nvidia/cu13)
    runtime=$(runtime_of "$toolkit") || fail "the packages in $toolkit hold no CUDA 13"
  fi

  for folder in bin include nvvm; do ln -sfn "$toolkit/$folder" "$cuda/$folder"; done
fi

# Stand-ins without a symbol in them. A program linked to these names none of CUDA's libraries as needed, so it starts
# where they are absent, and opens them itself when it is to use a GPU (src/cuda/libraries.rs).
libraries=$cuda/lib64
rm -rf "$libraries"
mkdir "$libraries"
for name in cuda nvrtc curand cublas cublasLt cudnn; do
  "$compiler" -shared -x c /dev/null -o "$libraries/lib$name.so" || fail "$compiler cannot make a shared library"
done
# The runtime that candle's own kernels ask for goes into the program: it opens the driver by itself when it is used. So
# does the little that they need of C++.
ln -s "$runtime" "$libraries/libcudart.a"
cxx=$("$compiler" -print-file-name=libstdc++.a)
[ ! -f "$cxx" ] || ln -s "$cxx" "$libraries/libstdc++.a"

# Candle's kernels for quantised language models take most of the minutes that its compilation takes, and nothing here calls
# them: they stay out, as calls are bound when they are made.
mkdir -p "$cuda/compiler" && cat > "$cuda/compiler/nvcc" <<END
#!/bin/sh
for argument; do case \$argument in src/mmq_gguf/*.cu | src/moe/*.cu | src/mmvq_gguf.cu) skip=yes ;; esac; done
if [ -n "\${skip:-}" ]; then
  while [ "\$1" != -o ]; do shift; done
  exec "$compiler" -c -x c /dev/null -o "\$2"
fi
exec "$cuda/bin/nvcc" "\$@"
END
chmod +x "$cuda/compiler/nvcc"

# Calls of CUDA are left open and bound when they are first made. That takes calls through the procedure linkage table,
# which rustc makes only where the table may be written later on, and a linker that lets unknown names pass.
flags='-Crelro-level=partial -Clink-arg=-Wl,-z,lazy -Clink-arg=-Wl,--unresolved-symbols=ignore-all'
echo '{ cu[A-Z]*; cublas*; curand*; cudnn*; nvrtc*; };' > "$cuda/calls"
starts() { # a program with an open call, linked with these flags
  echo 'unsafe extern "C" { fn cuOpen(); } fn main() { if std::env::args().count() > 1 { unsafe { cuOpen() } } }' |
    rustc --edition 2024 "$@" -o "$cuda/probe" - && "$cuda/probe"
} 2>/dev/null
# LLD needs no more; GNU's linker has to be told that such names are looked up in what is open.
# shellcheck disable=SC2086
starts $flags || { flags="$flags -Clink-arg=-Wl,--dynamic-list=$cuda/calls"; starts $flags; } ||
  fail "programs with open calls do not start: the linker of rustc must be LLD or GNU's"
rm "$cuda/probe"

cat > "$cuda/cargo.toml" <<END
# Made by crates/ssdkd-ops/cuda-toolkit.sh.
[env]
CUDA_HOME = "$cuda"
NVCC = "$cuda/compiler/nvcc"
CUDARC_CUDA_VERSION = "$("$cuda/bin/nvcc" --version | sed -n 's/.*release \([0-9]*\)\.\([0-9]*\),.*/\10\20/p')"
CUDA_COMPUTE_CAP = "90" # H100, H200; an environment variable of this name beats it

[build]
target-dir = "$target"
rustflags = [$(printf '"%s", ' $flags)]
END
echo "building for a ${simulated:+$simulated }GPU with $toolkit" >&2
