"""Averages the students of a run's last rounds, weights and running statistics: the averages of docs/lab/cifar100.md.

    python tools/average_students.py runs/NAME --rounds 50 --out average.safetensors
    ssdkd-evaluate average.safetensors --teacher TEACHER.json --data DATA

It needs PyTorch and safetensors.
"""

import argparse
import sys
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("run", type=Path, help="the folder of a run")
parser.add_argument("--rounds", type=int, required=True, help="average the students of so many last rounds")
parser.add_argument("--out", type=Path, required=True, help="the file to write")
arguments = parser.parse_args()

files = sorted(arguments.run.glob("distill/*/student.safetensors"))
if not 1 <= arguments.rounds <= len(files):
    sys.exit(f"--rounds is {arguments.rounds}; {arguments.run} has the students of {len(files)} rounds\nhint: give a number from 1 to that")
files = files[-arguments.rounds :]
total = None
for file in files:
    weights = {name: tensor.double() for name, tensor in load_file(file).items()}
    total = weights if total is None else {name: total[name] + tensor for name, tensor in weights.items()}
newest = load_file(files[-1])
with safe_open(files[-1], "pt") as opened:
    metadata = opened.metadata()
# Counts of batches are whole numbers: those of the newest.
averages = {
    name: (total[name] / len(files)).to(tensor.dtype) if tensor.is_floating_point() else tensor for name, tensor in newest.items()
}
save_file(averages, arguments.out, metadata=metadata)
