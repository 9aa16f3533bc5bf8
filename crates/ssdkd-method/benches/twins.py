"""The steps of `steps.rs` in PyTorch, in the ways that PyTorch has to take them: what `pytorch.py` times."""

import pathlib
import sys
from typing import NamedTuple

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
TEACHER, STUDENT = "wrn-40-2", "wrn-16-1"
LAYOUTS = {"nchw": torch.contiguous_format, "channels-last": torch.channels_last}


class Variant(NamedTuple):
    """A way to take a step."""

    layout: str
    bf16: bool = False  # automatic mixed precision
    mode: str = ""  # of torch.compile; "": as it is
    graph: bool = False  # the whole step captured in a CUDA graph, and replayed

    def __str__(self):
        compiled = "compiled" if self.mode == "default" else self.mode
        words = (compiled, "graphed" if self.graph else "", "bf16" if self.bf16 else "", self.layout)
        return " ".join(word for word in words if word)


def rows(batches, gpu):
    """The rows of steps.rs; its own order in its own words."""
    for batch in batches:
        for kind in ("forward", "train"):
            yield from (f"{kind} {network} {batch}" for network in NETWORKS)
        kinds = ("invert", "distil", "distil-bare") if gpu else ("invert", "distil")
        yield from (f"{kind} {TEACHER}/{STUDENT} {batch}" for kind in kinds)
    for kind in ("forward", "input", "weight"):
        yield from (f"conv-{kind} {shape} {batches[0]}" for shape in CONVOLUTIONS)


def takes(row, variant):
    """Whether the row can be taken so."""
    if row.startswith("conv-"):
        return not variant.mode
    if row.startswith("invert"):
        return not variant.mode and not variant.graph  # hooks, and numbers that are read back
    return not (variant.graph and row.startswith("distil "))  # the same


class Twin:
    """Makes the networks of one variant on one device."""

    def __init__(self, variant, device):
        self.variant, self.device = variant, device
        self.layout = LAYOUTS[variant.layout]
        self.gpu = device.type == "cuda"

    def place(self, module_or_tensor):
        return module_or_tensor.to(self.device, memory_format=self.layout)

    def build(self, name, compiled=True):
        network = self.place(NETWORKS[name]())
        return torch.compile(network, mode=self.variant.mode) if compiled and self.variant.mode else network

    def images(self, *shape):
        return self.place(torch.rand(*shape))

    def precision(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.variant.bf16)

    def sgd(self, network):
        # One kernel for all parameters, where PyTorch has it.
        more = {"fused": True} if self.gpu else {}
        return torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9, weight_decay=5e-4, **more)

    def adam(self, network):
        more = {"fused": True} if self.gpu else {}
        return torch.optim.Adam(network.parameters(), 1e-3, betas=(0.5, 0.999), **more)


def normalise(x):
    return (x - 0.5) / 0.25


def frozen(network):
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network.eval()


def step(row, variant, device):
    """A function that takes one step of the row."""
    twin = Twin(variant, device)
    kind, name, batch = row.split(" ")
    batch = int(batch)
    if kind.startswith("conv-"):
        run = convolution(twin, kind.removeprefix("conv-"), name, batch)
    elif kind == "forward":
        run = forward(twin, name, batch)
    elif kind == "train":
        run = train(twin, name, batch)
    elif kind == "invert":
        run = invert(twin, batch)
    else:
        run = distil(twin, batch, reports=twin.gpu and kind == "distil")
    if variant.mode == "reduce-overhead":

        def marked():
            torch.compiler.cudagraph_mark_step_begin()
            run()

        return marked
    return graphed(run) if variant.graph else run


def graphed(run):
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def convolution(twin, direction, shape, batch):
    size, inputs, outputs = (int(number) for number in shape.split("x"))
    dtype = torch.bfloat16 if twin.variant.bf16 else torch.float32
    x = twin.images(batch, inputs, size, size).to(dtype)
    weight = twin.images(outputs, inputs, 3, 3).to(dtype)
    gradient = twin.images(batch, outputs, size, size).to(dtype)
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


def forward(twin, name, batch):
    network, images = twin.build(name).eval(), twin.images(batch, 3, 32, 32)

    def run():
        with torch.inference_mode(), twin.precision():
            network(normalise(images))

    return run


def train(twin, name, batch):
    network, images = twin.build(name).train(), twin.images(batch, 3, 32, 32)
    labels = torch.arange(batch, device=twin.device) % 10
    sgd = twin.sgd(network)

    def run():
        sgd.zero_grad()
        with twin.precision():
            loss = F.cross_entropy(network(normalise(images))[1], labels)
        loss.backward()
        sgd.step()

    return run


def distil(twin, batch, reports):
    teacher, student = frozen(twin.build(TEACHER)), twin.build(STUDENT).train()
    images, sgd = twin.images(batch, 3, 32, 32), twin.sgd(student)

    def run():
        with torch.inference_mode(), twin.precision():
            t = teacher(normalise(images))[1].clone()
        with twin.precision():
            s = student(normalise(images))[1]
            loss = F.kl_div(F.log_softmax(s / 4, 1), F.softmax(t / 4, 1), reduction="batchmean") * 16
        sgd.zero_grad()
        loss.backward()
        if reports:
            # What our step reports, read back at once.
            with torch.no_grad():
                log_s, log_t = F.log_softmax(s.float(), 1), F.log_softmax(t.float(), 1)
                agreement = (s.argmax(1) == t.argmax(1)).float().mean()
                norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in student.parameters()])
                disagreement = (log_t.exp() * (log_t - log_s)).sum(1)
                torch.cat([torch.stack([loss.float(), agreement, norm]), disagreement]).cpu()
        sgd.step()

    return run


def invert(twin, batch):
    teacher, student = frozen(twin.build(TEACHER, compiled=False)), frozen(twin.build(STUDENT))
    generator = twin.place(Generator(256, 64, 32, 3)).train()
    adam = twin.adam(generator)
    norms = []

    def tap(module, inputs, _):
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
        norms.append(torch.norm(mean - module.running_mean) + torch.norm(variance - module.running_var))

    def tapped():
        return [m.register_forward_hook(tap) for m in teacher.modules() if isinstance(m, torch.nn.BatchNorm2d)]

    hooks = tapped()

    def run():
        norms.clear()
        with twin.precision():
            x = generator(torch.randn(batch, 256, device=twin.device))
            t, s = teacher(normalise(x))[1], student(normalise(x))[1]
            mean = t.softmax(1).mean(0)
            log_t = F.log_softmax(t, 1)
            kl = (log_t.exp() * (log_t - F.log_softmax(s, 1))).sum(1).mean()
            task, balance = F.cross_entropy(t, t.argmax(1)), (mean * mean.log()).sum()
            statistics = sum(norms)
            loss = statistics + 0.5 * task + 10 * balance - kl
        if twin.gpu:
            # The terms, as ours reads them back to see whether they are finite.
            torch.stack([term.detach().float() for term in (statistics, task, balance, kl, loss)]).cpu()
        adam.zero_grad()
        loss.backward()
        adam.step()
        # The labels of the rounded images, without the taps, as ours.
        for hook in hooks:
            hook.remove()
        with torch.inference_mode(), twin.precision():
            logits = teacher(normalise((x.detach() * 255).round() / 255))[1]
        logits.argmax(1).cpu()
        hooks[:] = tapped()

    return run
