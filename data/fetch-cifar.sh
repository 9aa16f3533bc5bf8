#!/bin/sh
# Fetches CIFAR-10 or CIFAR-100 (binary version) from its authors' site into data/cifar10 or data/cifar100.
#
#     data/fetch-cifar.sh 10|100
#
# CIFAR_MIRROR=URL takes the archive from another place; its digest is checked all the same. Either the folder is
# complete afterwards, or nothing is left behind.
set -eu

fail() { echo "fetch-cifar.sh: $1" >&2; exit 1; }

case ${1:-} in
  10)  sha256=c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd unpacked=cifar-10-batches-bin last=test_batch.bin ;;
  100) sha256=58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec unpacked=cifar-100-binary last=test.bin ;;
  *)   echo "usage: $0 10|100" >&2; exit 2 ;;
esac

archive=cifar-$1-binary.tar.gz
url=${CIFAR_MIRROR:-https://www.cs.toronto.edu/~kriz}/$archive
here=$(cd "$(dirname "$0")" && pwd)
target=$here/cifar$1

if [ -f "$target/$last" ]; then
  echo "CIFAR-$1 is in $target already" >&2
  exit 0
fi
[ ! -e "$target" ] || fail "$target exists, but is not CIFAR-$1: move it away first"

# Beside the target, so that the last step is one rename.
work=$(mktemp -d "$here/.fetch.XXXXXX") || fail "cannot write to $here"
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

echo "fetching $url (about 165 MiB)" >&2
if command -v curl >/dev/null; then
  quiet=--silent; [ ! -t 2 ] || quiet=--progress-bar
  curl --fail --location --retry 3 --connect-timeout 20 $quiet --output "$work/$archive" "$url" ||
    fail "could not fetch $url (is there a network?); \`--data shapes\` needs no download"
elif command -v wget >/dev/null; then
  wget --quiet --tries=3 --timeout=20 --output-document="$work/$archive" "$url" ||
    fail "could not fetch $url (is there a network?); \`--data shapes\` needs no download"
else
  fail "needs curl or wget to fetch $url"
fi

if command -v sha256sum >/dev/null; then
  found=$(sha256sum "$work/$archive")
elif command -v shasum >/dev/null; then
  found=$(shasum -a 256 "$work/$archive")
else
  fail "needs sha256sum or shasum to check what was fetched"
fi
[ "${found%% *}" = $sha256 ] || fail "$url has SHA-256 ${found%% *}, not $sha256: not what its authors published"

tar -xzf "$work/$archive" -C "$work" || fail "could not unpack $archive"
[ -f "$work/$unpacked/$last" ] || fail "$archive holds no $unpacked/$last"
mv "$work/$unpacked" "$target"
echo "CIFAR-$1 is in $target" >&2
