"""Whole steps in PyTorch beside ours, interleaved in one run: the rows of `steps.rs`.

    python crates/ssdkd-method/benches/pytorch.py [--threads 2] [--groups large,kernels] [--rows SUBSTRING,…] [--compile]
    python crates/ssdkd-method/benches/pytorch.py --device cuda --ours PROGRAM --seconds 300 --compile 100

PyTorch runs each row in the variants of `twins.py` that the device has, and the one with the lowest median counts; a ratio
is PyTorch's time over ours. On the CPU those are NCHW and channels-last, and with --compile the faster of them through
torch.compile. On a GPU they are f32 with TF32 in both layouts, and bf16 by autocast; with --graphs the whole step as a CUDA
graph; with --compile SECONDS, after all rows, those rows once more through torch.compile for which there is time.

A machine that others use, too, slows down steps, never speeds them up: `--fastest` compares the fastest steps of many
alternations instead of the medians, and `--cpu-time` the time that a processor worked instead of the time on the clock,
which is possible with one thread.

Prints a table, and writes it (.md) and all numbers (.json) after every row. A row that fails is kept with its error.
"""

import argparse
import contextlib
import gc
import json
import math
import os
import pathlib
import platform
import select
import signal
import statistics
import subprocess
import sys
import time

import torch

sys.dont_write_bytecode = True  # nothing beside the sources
import large  # noqa: E402
from twins import CALLS, GROUPS, ROOT, Variant, is_kernel, rows, step, takes  # noqa: E402

PAUSE = 0.3  # seconds in which PyTorch's threads stop spinning after their work, before ours is timed on the CPU
GPU_WARM_UP = 5  # steps, as in steps.rs
GPU_STEPS = 3  # timed steps of one side in a turn: they are short
SMALL = "conv-forward 4x16x16 2"  # a row that needs no memory to speak of
COMPILING = 150  # seconds that one variant of one row may take to compile on a GPU


class Failed(Exception):
    """Our side has not answered with a time."""


class Ours:
    """`steps.rs` in a process of its own: a row in, seconds and peak bytes of one step out."""

    def __init__(self, program, device, threads, patience, cpu_time):
        gpu = device != "cpu"
        cargo = ["cargo", *(["--config", ".cuda/cargo.toml"] if gpu else [])]  # as `make build-cuda`
        bench = ["bench", "--quiet", "--workspace", *(["--features", "cuda"] if gpu else []), "--bench", "steps", "--"]
        self.command = [*([program] if program else cargo + bench), "--serve", "--device", device]
        self.environment = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
        self.patience, self.cpu_time = patience, cpu_time
        self.process = None

    def _tell(self, line):
        if self.process is None:
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(
                self.command, cwd=ROOT, env=self.environment, stdin=pipe, stdout=pipe, bufsize=0
            )
            self.heard = b""
        with contextlib.suppress(BrokenPipeError):  # the end of its output says it better
            self.process.stdin.write(line.encode() + b"\n")

    def step(self, row):
        self._tell(row)
        end = time.monotonic() + self.patience
        while b"\n" not in self.heard:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))
            if not ready:
                self.stop()
                raise Failed(f"no answer in {self.patience} s")
            more = os.read(self.process.stdout.fileno(), 4096)
            if not more:
                code = self.stop()
                raise Failed(f"`steps` stopped with {code}; its message is above")
            self.heard += more
        line, self.heard = self.heard.split(b"\n", 1)
        first, *more = line.decode().split("\t")
        if first == "error":
            self.stop()
            raise Failed(" ".join(more))
        worked, peak = more
        return float(worked if self.cpu_time else first), int(peak)

    def forget(self):
        if self.process is not None:
            self._tell("-")

    def stop(self):
        """Ends the process, if there is one; the next row starts another."""
        if self.process is None:
            return None
        process, self.process = self.process, None
        process.stdin.close()
        try:
            return process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


class Bench:
    """Where both sides compute, and how a row is measured there."""

    def __init__(self, ours, device, alternations, deadline, fastest, cpu_time):
        self.ours, self.device, self.alternations, self.deadline = ours, device, alternations, deadline
        self.figure = min if fastest else statistics.median  # of the times of one side
        self.clock = time.process_time if cpu_time else time.perf_counter
        self.gpu = device.type == "cuda"

    def late(self):
        return time.monotonic() > self.deadline

    def seconds(self, run):
        self.synchronize()
        start = self.clock()
        run()
        self.synchronize()
        return self.clock() - start

    def synchronize(self):
        if self.gpu:
            torch.cuda.synchronize()

    def prepared(self, row, variants, errors):
        """A function for each variant that works here, warmed up; `errors` gets why the others do not."""
        runs = {}
        for variant in variants:
            try:
                with limited(min(COMPILING, self.deadline - time.monotonic()) if self.gpu and variant.mode else None):
                    run = step(row, variant, self.device)
                    for _ in range(GPU_WARM_UP if self.gpu else 1):
                        run()
                    self.synchronize()
                runs[str(variant)] = run
            except Exception as error:  # noqa: BLE001 - what does not work here is left out, and said
                errors[str(variant)] = brief(error)
                print(f"{row}: {variant} does not work here: {brief(error)}", file=sys.stderr)
        return runs

    def peak(self, run):
        """Most bytes of the GPU that PyTorch's tensors took in a step."""
        torch.cuda.reset_peak_memory_stats()
        run()
        self.synchronize()
        return torch.cuda.max_memory_allocated()

    def measure(self, row, variants):
        errors = {}
        runs = self.prepared(row, variants, errors)
        result = {"name": row, "errors": errors}
        if not runs:
            raise Failed("PyTorch can do it in no variant")
        if self.gpu and any(variant.mode for variant in variants) and not any(str(v) in runs for v in variants if v.mode):
            raise Failed("nothing of it was compiled")
        if self.gpu:
            result["pytorch_peak_mib"] = {variant: mib(self.peak(run)) for variant, run in runs.items()}
            # It keeps the memory that it has freed: what is taken afterwards is the most that it took at a time.
            self.ours.stop()
            self.ours.step(SMALL)
            before = used()
            self.ours.step(row)
            result["ours_peak_mib"] = mib(used() - before)
        else:
            for run in runs.values():
                run()
            _, peak = self.ours.step(row)
            result["ours_peak_mib"] = mib(peak)
        mine, times = self.alternate(row, runs)
        self.ours.forget()
        if is_kernel(row):
            mine = [spent / CALLS for spent in mine]
            times = {variant: [spent / CALLS for spent in spents] for variant, spents in times.items()}
        result["ours_s"] = self.figure(mine)
        result["variants"] = {variant: self.figure(spents) for variant, spents in times.items()}
        result |= compare(mine, times, lambda _: True, "", self.figure)
        if self.gpu:
            result |= compare(mine, times, lambda variant: "bf16" not in variant, "_f32", self.figure)
        return result

    def alternate(self, row, runs):
        """Seconds of ours and of each variant, turn by turn."""
        # Single kernels and steps on a GPU are so short that waking up counts: one untimed before the timed ones.
        short = self.gpu or is_kernel(row)
        count = GPU_STEPS if self.gpu else 1
        mine, times = [], {variant: [] for variant in runs}
        for turn in range(self.alternations):
            if turn > 2 and self.late():
                break
            if self.clock is time.perf_counter and not self.gpu:
                time.sleep(PAUSE)
            if short:
                self.ours.step(row)
            mine.append(statistics.median(self.ours.step(row)[0] for _ in range(count)))
            for variant, run in runs.items():
                if short:
                    run()
                times[variant].append(statistics.median(self.seconds(run) for _ in range(count)))
        return mine, times


def used():
    """Bytes of the GPU that are taken, by whomever."""
    free, total = torch.cuda.mem_get_info()
    return total - free


def compare(mine, times, counts, suffix, figure):
    """The fastest of the variants that count, beside ours."""
    times = {variant: spents for variant, spents in times.items() if counts(variant)}
    if not times:
        return {}
    best = min(times, key=lambda variant: figure(times[variant]))
    ratios = sorted(theirs / own for theirs, own in zip(times[best], mine))
    ratio = min(times[best]) / min(mine) if figure is min else statistics.median(ratios)
    figures = {
        "pytorch_s": figure(times[best]),
        "ratio": ratio,
        "ratio_min": ratios[0],
        "ratio_max": ratios[-1],
        "pytorch_variant": best,
    }
    return {f"{name}{suffix}": figure for name, figure in figures.items()}


def mib(count):
    return round(count / 2**20, 1)


def brief(error):
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"


@contextlib.contextmanager
def limited(seconds):
    """Ends what takes longer by an exception."""
    if seconds is None:
        yield
        return

    def end(*_):
        raise TimeoutError(f"not compiled within {seconds:.0f} s")

    if seconds < 1:
        raise TimeoutError("no time left to compile it")
    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def variants_of(row, bench, arguments):
    """What a row is measured in at first."""
    if bench.gpu:
        variants = [Variant("channels-last"), Variant("nchw"), Variant("channels-last", bf16=True)]
        if arguments.graphs:
            variants += [Variant("channels-last", graph=True), Variant("channels-last", bf16=True, graph=True)]
        return [variant for variant in variants if takes(row, variant)]
    variants = [Variant("nchw"), Variant("channels-last")]
    if arguments.compile is not None and takes(row, Variant("nchw", mode="default")):
        # Compiling takes longer than measuring: the layout that is faster without.
        runs = bench.prepared(row, variants, {})
        fastest = min(variants, key=lambda variant: min(bench.seconds(runs[str(variant)]) for _ in range(3)))
        torch._dynamo.reset()  # it gives up after a few networks otherwise
        variants.append(fastest._replace(mode="default"))
    return variants


def compiled_of(row, bench, arguments):
    """What a row is measured in on a GPU if there is time to compile it."""
    modes = (Variant("channels-last", mode=mode) for mode in arguments.modes.split(","))
    compiled = [variant._replace(bf16=bf16) for variant in modes for bf16 in (False, True)]
    return variants_of(row, bench, arguments) + compiled


class Report:
    """The rows so far, on the screen and in files."""

    def __init__(self, path, facts, gpu):
        self.path, self.facts, self.gpu = path, facts, gpu
        self.rows = {}
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, result):
        self.rows[result["name"]] = result
        print(self.line(result), flush=True)
        self.write()

    def line(self, result):
        name = f"{result['name']:<42}"
        if "error" in result:
            return f"{name}failed: {result['error']}"
        if self.gpu:
            f32 = f"{1e3 * result['pytorch_s_f32']:>9.3f}{result['ratio_f32']:>7.2f}" if "ratio_f32" in result else 16 * " "
            return f"{name}{1e3 * result['ours_s']:>9.3f}{f32}{self.figures(result, 1e3, 3)}"
        return f"{name}{result['ours_s']:>9.4f}{self.figures(result, 1, 4)}"

    @staticmethod
    def figures(result, unit, digits):
        return (
            f"{unit * result['pytorch_s']:>11.{digits}f}{result['ratio']:>7.2f}{result['ratio_min']:>7.2f}"
            f"{result['ratio_max']:>7.2f}{result['ours_peak_mib']:>10.0f}  {result['pytorch_variant']}"
        )

    def head(self):
        f32 = f"{'f32 ms':>9}{'ratio':>7}" if self.gpu else ""
        unit = "ms" if self.gpu else "s"
        return (
            f"{'step':<42}{f'ours {unit}':>9}{f32}{f'PyTorch {unit}':>11}{'ratio':>7}{'min':>7}{'max':>7}{'peak MiB':>10}"
            "  PyTorch's best"
        )

    def mean(self, key="ratio"):
        ratios = [result[key] for result in self.rows.values() if key in result]
        return math.exp(statistics.fmean(math.log(ratio) for ratio in ratios)) if ratios else None

    def write(self):
        means = {"geomean_ratio": self.mean()} | ({"geomean_ratio_f32": self.mean("ratio_f32")} if self.gpu else {})
        report = {"rows": list(self.rows.values()), **means, **self.facts}
        self.replace(self.path, json.dumps(report, indent=2) + "\n")
        self.replace(self.path.with_suffix(".md"), self.markdown())

    @staticmethod
    def replace(path, text):
        # Whole or not at all: the program may be ended at any moment.
        new = path.with_name(path.name + ".new")
        new.write_text(text)
        new.replace(path)

    def markdown(self):
        lines = [f"{name}: {value}" for name, value in self.facts.items() if not isinstance(value, dict)]
        lines += [f"{name}: {value}" for name, value in self.facts.get("gpu", {}).items()]
        means = [("geometric mean of the ratios", self.mean())]
        if self.gpu:
            means.append(("with f32 and TF32 alone", self.mean("ratio_f32")))
        lines += [f"{name}: {value:.2f}" for name, value in means if value]
        text = "\n".join(f"- {line}" for line in lines) + "\n\n"
        unit, scale, digits = ("ms", 1e3, 3) if self.gpu else ("s", 1, 4)
        f32 = f" f32, {unit} | ratio |" if self.gpu else ""
        text += f"| row | ours, {unit} |{f32} PyTorch, {unit} | ratio | min | max | PyTorch's best | our peak, MiB |\n"
        text += "|" + (10 if self.gpu else 8) * "---|" + "\n"
        for result in self.rows.values():
            if "error" in result:
                text += f"| {result['name']} | failed: {result['error']} |\n"
                continue
            f32 = ""
            if self.gpu:
                known = "ratio_f32" in result
                f32 = f" {scale * result['pytorch_s_f32']:.{digits}f} | {result['ratio_f32']:.2f} |" if known else " | |"
            text += (
                f"| {result['name']} | {scale * result['ours_s']:.{digits}f} |{f32}"
                f" {scale * result['pytorch_s']:.{digits}f} | {result['ratio']:.2f} | {result['ratio_min']:.2f} |"
                f" {result['ratio_max']:.2f} | {result['pytorch_variant']} | {result['ours_peak_mib']:.0f} |\n"
            )
        return text


def machine():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return name


def gpu_facts(device):
    properties = torch.cuda.get_device_properties(device)
    facts = {
        "name": properties.name,
        "memory_mib": properties.total_memory >> 20,
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
    asked = ["driver_version", "clocks.max.sm", "power.limit"]
    command = ["nvidia-smi", f"--query-gpu={','.join(asked)}", "--format=csv,noheader", f"--id={device.index or 0}"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
        facts |= dict(zip(asked, (part.strip() for part in answer.strip().split(","))))
    return facts


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--ours", help="the program `steps`; without it cargo is asked for it")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--groups", default=",".join(GROUPS), help="of rows, separated by commas (all of them)")
    parser.add_argument("--rows", default="", help="only rows that contain one of these, separated by commas")
    parser.add_argument("--batches", help="sizes, separated by commas; the first is that of single convolutions, too; not at 224 pixels")
    parser.add_argument("--alternations", type=int, default=7)
    parser.add_argument("--fastest", action="store_true", help="compare the fastest steps, not the medians")
    parser.add_argument("--cpu-time", action="store_true", help="time on the processor, not on the clock: one thread alone")
    parser.add_argument("--seconds", type=float, default=math.inf, help="start no row after so many")
    parser.add_argument(
        "--compile", type=float, nargs="?", const=math.inf, metavar="SECONDS",
        help="torch.compile too (minutes of compiling); on a GPU for at most so many seconds, besides --seconds",
    )  # fmt: skip
    parser.add_argument("--modes", default="default,reduce-overhead", help="of torch.compile on a GPU")
    parser.add_argument("--graphs", action="store_true", help="on a GPU, whole steps as CUDA graphs, too")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "target" / "bench" / "pytorch.json")
    return parser.parse_args()


def set_up(arguments, device):
    torch.set_num_threads(arguments.threads)
    if device.type == "cuda":
        torch.cuda.init()
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cuda.matmul.allow_tf32 = True


def attempt(bench, report, row, variants):
    """Measures a row; what goes wrong becomes its result. Returns whether it went well."""
    try:
        result = bench.measure(row, variants())
    except Exception as error:  # noqa: BLE001 - the other rows are to be measured
        bench.ours.stop()
        if "ratio" in report.rows.get(row, {}):
            print(f"{row}: {brief(error)}", file=sys.stderr)
            return False
        result = {"name": row, "error": brief(error)}
    report.add(result)
    return "error" not in result


def tidy(gpu):
    gc.collect()
    if gpu:
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()


def main():
    arguments = parse()
    device = torch.device(arguments.device)
    set_up(arguments, device)
    gpu = device.type == "cuda"
    start = time.monotonic()
    patience = 120 if arguments.ours else 3600  # cargo may have to build it first
    if arguments.cpu_time and (gpu or arguments.threads != 1):
        sys.exit("--cpu-time compares nothing but one thread on the CPU\nhint: add --threads 1")
    ours = Ours(arguments.ours, arguments.device, arguments.threads, patience, arguments.cpu_time)
    deadline = start + arguments.seconds
    bench = Bench(ours, device, arguments.alternations, deadline, arguments.fastest, arguments.cpu_time)
    sizes = arguments.batches or ("256,1024" if gpu else "128,256")
    facts = {
        "machine": machine(),
        "threads": arguments.threads,
        "device": arguments.device,
        "pytorch": torch.__version__,
        "alternations": arguments.alternations,
        "compared": ("fastest" if arguments.fastest else "medians") + (", time on the CPU" if arguments.cpu_time else ""),
    } | ({"gpu": gpu_facts(device)} if gpu else {})  # fmt: skip
    report = Report(arguments.out, facts, gpu)
    parts = arguments.rows.split(",")
    groups = arguments.groups.split(",")
    if unknown := set(groups) - set(GROUPS):
        sys.exit(f"no such group of rows: {', '.join(sorted(unknown))}\nhint: the groups are {', '.join(GROUPS)}")
    every = rows(groups, [int(size) for size in sizes.split(",")], gpu)
    wanted = [row for row in every if any(part in row for part in parts)]
    if not wanted:
        sys.exit(f"no row contains {arguments.rows!r}")

    for name in large.NETWORKS:
        if any(f" {name}@" in row for row in wanted):
            large.export(name, ROOT / "target" / "bench")
    print(report.head())
    for row in wanted:
        if bench.late():
            facts["not_measured"] = len(wanted) - len(report.rows)
            break
        attempt(bench, report, row, lambda: variants_of(row, bench, arguments))
        tidy(gpu)
    if gpu and arguments.compile is not None:
        bench.deadline = time.monotonic() + arguments.compile
        # Small networks gain most; training is what a run spends its time on.
        kinds = ["train", "distil-bare", "forward", "distil"]
        able = [row for row in wanted if row.split(" ")[0] in kinds and "ratio" in report.rows.get(row, {})]
        for row in sorted(able, key=lambda row: kinds.index(row.split(" ")[0])):
            if bench.late():
                break
            torch._dynamo.reset()  # it gives up after a few networks otherwise
            attempt(bench, report, row, lambda: compiled_of(row, bench, arguments))
            tidy(gpu)
    ours.stop()
    facts["seconds"] = round(time.monotonic() - start, 1)
    report.write()
    if report.mean():
        print(f"geometric mean of the ratios: {report.mean():.2f}")
    failed = [name for name, result in report.rows.items() if "error" in result]
    print(f"{len(report.rows) - len(failed)} of {len(wanted)} rows measured, {len(failed)} failed")
    print(f"written to {arguments.out}")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
