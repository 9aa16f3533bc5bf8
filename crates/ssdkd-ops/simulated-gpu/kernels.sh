#!/bin/sh
# Compiles kernels for the CPU: kernels.sh SOURCE.cu LIBRARY.so [options of the compiler]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
source=$1 library=$2
shift 2
compiler=${CXX:-c++}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Shared memory whose size is known at the launch alone is a pointer here.
sed -E 's/extern __shared__ ([a-z ]+) ([a-z_]+)\[\];/\1* \2 = reinterpret_cast<\1*>(simulated::dynamic_shared.data());/' \
  "$source" > "$work/kernels.cu"
options="-x c++ -std=c++20 -w -I$here/headers -I$(dirname "$source")"
# A table of the kernels at the end: macros make some of them.
# shellcheck disable=SC2086 -- several words
"$compiler" $options "$@" -E -P "$work/kernels.cu" |
  grep -oE 'extern "C" __global__ void [A-Za-z_0-9]+' | sed 's/.* //' | sort -u > "$work/names"
{
  cat "$work/kernels.cu"
  echo 'namespace simulated { const Kernel KERNELS[] = {'
  sed 's/.*/    {"&", [](void** arguments) { call(\&&, arguments); }, [](unsigned i) { return argument(\&&, i); }},/' "$work/names"
  echo "}; const unsigned KERNEL_COUNT = $(wc -l < "$work/names"); }"
} > "$work/table.cu"
# Loops over NaN and infinities mean what they say, so no -ffast-math.
# shellcheck disable=SC2086
"$compiler" $options "$@" -include "$here/device.hpp" -O2 -U_FORTIFY_SOURCE -fPIC -shared "$work/table.cu" -o "$library.$$"
mv "$library.$$" "$library"
