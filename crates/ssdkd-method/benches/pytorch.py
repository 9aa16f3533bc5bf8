"""Whole steps in PyTorch beside ours, interleaved in one run: the rows of `steps.rs`.

    python crates/ssdkd-method/benches/pytorch.py [--threads 2] [--rows SUBSTRING] [--alternations 7] [--compile]

PyTorch runs each row in NCHW and in channels-last, and with --compile the faster of them through torch.compile; the variant
with the lowest median counts. Prints a table and writes target/bench/pytorch.json; a ratio is PyTorch's time over ours.
"""

import argparse
import gc
import json
import math
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "golden"))
from networks import Generator, Vgg11, WideResNet, cifar, wide_stem  # noqa: E402

NETWORKS = {
    "resnet20": lambda: cifar(20),
    "resnet56": lambda: cifar(56),
    "wrn-16-1": lambda: WideResNet(16, 1, 10),
    "wrn-16-2": lambda: WideResNet(16, 2, 10),
    "wrn-40-2": lambda: WideResNet(40, 2, 10),
    "resnet18": lambda: wide_stem([2, 2, 2, 2]),
    "vgg11": lambda: Vgg11(10),
}
CONVOLUTIONS = ("32x16x16", "32x32x32", "32x64x64", "16x64x64", "8x128x128", "4x512x512")  # MAPxINxOUT, 3x3
CALLS = 10  # of a single convolution in a step, as in steps.rs
PAUSE = 0.3  # seconds in which PyTorch's threads stop spinning after their work, before ours is timed
TEACHER, STUDENT = "wrn-40-2", "wrn-16-1"
LAYOUTS = {"nchw": torch.contiguous_format, "channels-last": torch.channels_last}


def rows():
    for batch in (128, 256):
        for kind in ("forward", "train"):
            yield from (f"{kind} {network} {batch}" for network in NETWORKS)
        yield from (f"{kind} {TEACHER}/{STUDENT} {batch}" for kind in ("invert", "distil"))
    for kind in ("forward", "input", "weight"):
        yield from (f"conv-{kind} {shape} 128" for shape in CONVOLUTIONS)


def build(name, layout, compiled):
    network = NETWORKS[name]().to(memory_format=layout)
    return torch.compile(network) if compiled else network


def normalise(x):
    return (x - 0.5) / 0.25


def frozen(network):
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network.eval()


def convolution(direction, shape, batch, layout):
    size, inputs, outputs = (int(number) for number in shape.split("x"))
    x = torch.rand(batch, inputs, size, size).to(memory_format=layout)
    weight = torch.rand(outputs, inputs, 3, 3).to(memory_format=layout)
    gradient = torch.rand(batch, outputs, size, size).to(memory_format=layout)
    wanted = [direction == "input", direction == "weight", False]
    once = [1, 1]

    def run():
        with torch.inference_mode():
            for _ in range(CALLS):
                if direction == "forward":
                    F.conv2d(x, weight, padding=1)
                else:
                    torch.ops.aten.convolution_backward(
                        gradient, x, weight, None, once, once, once, False, [0, 0], 1, wanted
                    )

    return run


def step(row, layout, compiled):
    """A function that takes one step of the row."""
    kind, name, batch = row.split(" ")
    batch = int(batch)
    if kind.startswith("conv-"):
        return convolution(kind.removeprefix("conv-"), name, batch, layout)
    images = torch.rand(batch, 3, 32, 32).to(memory_format=layout)
    if kind == "forward":
        network = build(name, layout, compiled).eval()

        def run():
            with torch.inference_mode():
                network(normalise(images))

    elif kind == "train":
        network = build(name, layout, compiled).train()
        labels = torch.arange(batch) % 10
        sgd = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9, weight_decay=5e-4)

        def run():
            sgd.zero_grad()
            F.cross_entropy(network(normalise(images))[1], labels).backward()
            sgd.step()

    elif kind == "distil":
        teacher, student = frozen(build(TEACHER, layout, compiled)), build(STUDENT, layout, compiled).train()
        sgd = torch.optim.SGD(student.parameters(), 1e-3, momentum=0.9, weight_decay=5e-4)

        def run():
            with torch.inference_mode():
                t = teacher(normalise(images))[1].clone()
            s = student(normalise(images))[1]
            loss = F.kl_div(F.log_softmax(s / 4, 1), F.softmax(t / 4, 1), reduction="batchmean") * 16
            sgd.zero_grad()
            loss.backward()
            sgd.step()

    else:
        teacher, student = frozen(NETWORKS[TEACHER]().to(memory_format=layout)), frozen(build(STUDENT, layout, compiled))
        generator = Generator(256, 64, 32, 3).to(memory_format=layout).train()
        adam = torch.optim.Adam(generator.parameters(), 1e-3, betas=(0.5, 0.999))
        norms = []

        def tap(module, inputs, _):
            variance, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
            norms.append(torch.norm(mean - module.running_mean) + torch.norm(variance - module.running_var))

        hooks = [m.register_forward_hook(tap) for m in teacher.modules() if isinstance(m, torch.nn.BatchNorm2d)]

        def run():
            norms.clear()
            x = generator(torch.randn(batch, 256))
            t, s = teacher(normalise(x))[1], student(normalise(x))[1]
            mean = t.softmax(1).mean(0)
            log_t = F.log_softmax(t, 1)
            kl = (log_t.exp() * (log_t - F.log_softmax(s, 1))).sum(1).mean()
            loss = sum(norms) + 0.5 * F.cross_entropy(t, t.argmax(1)) + 10 * (mean * mean.log()).sum() - kl
            adam.zero_grad()
            loss.backward()
            adam.step()
            # The labels of the rounded images, without the taps, as ours.
            for hook in hooks:
                hook.remove()
            with torch.inference_mode():
                teacher(normalise((x.detach() * 255).round() / 255))
            hooks[:] = [m.register_forward_hook(tap) for m in teacher.modules() if isinstance(m, torch.nn.BatchNorm2d)]

    return run


def seconds(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


class Ours:
    """`steps.rs` in a process of its own: a row in, seconds and peak bytes of one step out."""

    def __init__(self, threads):
        command = ["cargo", "bench", "--quiet", "--workspace", "--bench", "steps", "--", "--serve"]
        environment = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def step(self, row):
        self.process.stdin.write(row + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit("the benchmark `steps` stopped; its message is above")
        spent, peak = line.split()
        return float(spent), int(peak)

    def forget(self):
        self.process.stdin.write("-\n")
        self.process.stdin.flush()


def measure(row, ours, alternations, with_compile):
    variants = {layout: step(row, LAYOUTS[layout], False) for layout in LAYOUTS}
    for run in variants.values():
        run()
    if with_compile and not row.startswith(("invert", "conv-")):
        # Compiling takes longer than measuring: the layout that is faster without.
        layout = min(variants, key=lambda layout: min(seconds(variants[layout]) for _ in range(3)))
        torch._dynamo.reset()  # it gives up after a few networks otherwise
        try:
            run = step(row, LAYOUTS[layout], True)
            run()
            variants[f"compiled {layout}"] = run
        except Exception as error:  # noqa: BLE001 - a variant that does not work here is left out, and said so
            print(f"{row}: torch.compile does not work here ({type(error).__name__})", file=sys.stderr)
    for run in variants.values():
        run()
    ours.step(row)
    times, mine, peak = {variant: [] for variant in variants}, [], 0
    short = row.startswith("conv-")  # so short that waking up counts: once untimed before each, on both sides
    for _ in range(alternations):
        time.sleep(PAUSE)
        if short:
            ours.step(row)
        spent, bytes_held = ours.step(row)
        mine.append(spent)
        peak = max(peak, bytes_held)
        for variant, run in variants.items():
            if short:
                run()
            times[variant].append(seconds(run))
    ours.forget()
    if short:
        mine = [spent / CALLS for spent in mine]
        times = {variant: [spent / CALLS for spent in spents] for variant, spents in times.items()}
    best = min(times, key=lambda variant: statistics.median(times[variant]))
    ratios = sorted(theirs / own for theirs, own in zip(times[best], mine))
    return {
        "name": row,
        "ours_s": statistics.median(mine),
        "pytorch_s": statistics.median(times[best]),
        "ratio": statistics.median(ratios),
        "ratio_min": ratios[0],
        "ratio_max": ratios[-1],
        "pytorch_variant": best,
        "ours_peak_mib": round(peak / 2**20, 1),
    }


def machine():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return name


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rows", default="", help="only rows that contain this")
    parser.add_argument("--alternations", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="torch.compile too (minutes of compiling)")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "target" / "bench" / "pytorch.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    ours, results = Ours(arguments.threads), []
    print(f"{'step':<28}{'ours s':>9}{'PyTorch s':>11}{'ratio':>7}{'min':>7}{'max':>7}{'peak MiB':>10}  PyTorch's best")
    for row in rows():
        if arguments.rows not in row:
            continue
        result = measure(row, ours, arguments.alternations, arguments.compile)
        results.append(result)
        print(
            f"{row:<28}{result['ours_s']:>9.4f}{result['pytorch_s']:>11.4f}{result['ratio']:>7.2f}"
            f"{result['ratio_min']:>7.2f}{result['ratio_max']:>7.2f}{result['ours_peak_mib']:>10.0f}"
            f"  {result['pytorch_variant']}",
            flush=True,
        )
        gc.collect()
    if not results:
        sys.exit(f"no row contains {arguments.rows!r}")
    mean = math.exp(statistics.fmean(math.log(result["ratio"]) for result in results))
    print(f"geometric mean of the ratios: {mean:.2f}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "rows": results,
        "geomean_ratio": mean,
        "machine": machine(),
        "threads": arguments.threads,
        "pytorch": torch.__version__,
        "alternations": arguments.alternations,
    }
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
