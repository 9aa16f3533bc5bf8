#!/bin/sh
# Builds the libraries of a simulated GPU into FOLDER/lib, and FOLDER/bin/nvcc, which makes candle's kernels run on it.
#
#     simulated-gpu/build.sh FOLDER
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1/lib" "$1/bin" "$1/candle"
folder=$(cd "$1" && pwd)
compiler=${CXX:-c++}

library() { # NAME SOURCE [options]
  name=$1 source=$2
  shift 2
  # Sums may be in any order, as they are on a GPU; NaN stays NaN.
  "$compiler" -std=c++20 -O3 -fassociative-math -fno-signed-zeros -fno-trapping-math -fPIC -shared "$@" \
    "$here/$source" -o "$folder/lib/$name"
}
library libcuda.so.1 driver.cpp -ldl
library libnvrtc.so.13 nvrtc.cpp "-DKERNELS_SH=\"$here/kernels.sh\"" "-DFOLDER=\"$folder\""
library libcublas.so.13 cublas.cpp
library libcublasLt.so.13 cublas.cpp
library libcurand.so.10 curand.cpp
library libcudnn.so.9 cudnn.cpp
ar rcs "$folder/lib/libcudart_static.a" # only what nothing here calls asks for it

# Candle's kernels are compiled when candle is: what it takes for their code is where to find them.
cat > "$folder/bin/nvcc" <<END
#!/bin/sh
set -eu
source='' what=''
while [ \$# -gt 0 ]; do
  case \$1 in
    --version) echo 'Cuda compilation tools, release 13.0, V13.0.0'; exit ;;
    --ptx | --lib) what=\$1 ;;
    --output-directory) shift; into=\$1 ;;
    -o) shift; output=\$1 ;;
    *.cu) source=\$1 ;;
  esac
  shift
done
name=\$(basename "\$source" .cu)
case \$what:\$name in
  --ptx:quantized) : > "\$into/\$name.ptx" ;; # of language models: nothing here calls them
  # Without the types of 16 and 8 bits, which the compilers of C++ do not have.
  --ptx:*)
    "$here/kernels.sh" "\$source" "$folder/candle/\$name.so" -D__CUDA_ARCH__=520
    printf 'simulated:%s' "$folder/candle/\$name.so" > "\$into/\$name.ptx"
    ;;
  --lib:) rm -f "\$output" && ar rcs "\$output" ;; # those of language models as well
  *) echo "the nvcc of a simulated GPU does not know what to do" >&2; exit 1 ;;
esac
END
chmod +x "$folder/bin/nvcc"
