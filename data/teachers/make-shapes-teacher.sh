#!/usr/bin/env bash
# Makes the teacher that comes with the project anew: a ResNet-20 that knows the procedural shapes.
set -euo pipefail
cd "$(dirname "$0")/../.."
exec "${BIN:-target/release}/ssdkd-teach" --data shapes:0 --architecture resnet20 --out data/teachers --name shapes-resnet20 \
  --epochs 5 --batch 128 --lr 0.2 --schedule one-cycle --crop-padding 2 --seed 0 "$@"
