"""The steps of `steps.rs` in PyTorch, in the ways that PyTorch has to take them: what `pytorch.py` times.

`large.py` has those of networks at 224 pixels.
"""

import pathlib
import sys
from typing import NamedTuple

import torch
import torch.nn.functional as F

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "golden"))
import large  # noqa: E402
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
GROUPS = ("cifar", "convolutions", "large", "kernels")  # of rows
CONVOLUTIONS = ("32x16x16", "32x32x32", "32x64x64", "16x64x64", "8x128x128", "4x512x512")  # MAPxINxOUT, 3x3
# The same of networks at 224 pixels, MAPxINxOUT-KxK[-sSTRIDE][-depthwise], and bilinear resizes, FROMxCHANNELSxTO.
KERNELS = (
    "224x3x64-7x7-s2",
    "224x3x32-3x3-s2",
    "56x128x128-3x3-s2",
    "14x512x512-3x3-s2",
    "56x64x64-3x3",
    "14x256x256-3x3",
    "56x24x144-1x1",
    "56x64x256-1x1",
    "14x96x576-1x1",
    "14x1024x256-1x1",
    "7x320x1280-1x1",
    "112x32x32-3x3-depthwise",
    "112x96x96-3x3-s2-depthwise",
    "14x576x576-3x3-depthwise",
    "28x240x240-5x5-depthwise",
    "56x144x144-5x5-s2-depthwise",
    "14x672x672-5x5-s2-depthwise",
)
RESIZES = ("28x21x224", "14x256x28")
BATCH = 16  # of rows at 224 pixels
CALLS = 10  # of a single kernel in a step, as in steps.rs
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


def rows(groups, batches, gpu):
    """The rows of steps.rs; its own order in its own words."""
    for batch in batches if "cifar" in groups else ():
        for kind in ("forward", "train"):
            yield from (f"{kind} {network} {batch}" for network in NETWORKS)
        kinds = ("invert", "invert-graphs", "distil", "distil-graphs", "distil-bare") if gpu else ("invert", "distil")
        yield from (f"{kind} {TEACHER}/{STUDENT} {batch}" for kind in kinds)
    directions = ("forward", "input", "weight")
    if "convolutions" in groups:
        yield from (f"conv-{kind} {shape} {batches[0]}" for kind in directions for shape in CONVOLUTIONS)
    if "large" in groups:
        yield from (f"{kind} {name}@{large.SIZE} {BATCH}" for kind in large.KINDS for name in large.NETWORKS)
    if "kernels" in groups:
        yield from (f"conv-{kind} {shape} {BATCH}" for kind in directions for shape in KERNELS)
        yield from (f"resize-{kind} {shape} {BATCH}" for kind in directions[:2] for shape in RESIZES)


def is_kernel(row):
    """Whether a step of the row is CALLS calls of a single kernel."""
    return row.startswith(("conv-", "resize-"))


def takes(row, variant):
    """Whether the row can be taken so."""
    if is_kernel(row):
        return not variant.mode
    if row.startswith("invert"):
        return not variant.graph  # numbers are read back
    return not (variant.graph and row.startswith(("distil ", "distil-graphs ")))  # numbers are read back


class Twin:
    """Makes the networks of one variant on one device."""

    def __init__(self, variant, device):
        self.variant, self.device = variant, device
        self.layout = LAYOUTS[variant.layout]
        self.gpu = device.type == "cuda"

    def place(self, module_or_tensor):
        return module_or_tensor.to(self.device, memory_format=self.layout)

    def build(self, name, compiled=True):
        network = self.place(large.network(name) if large.is_large(name) else NETWORKS[name]())
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
    elif kind.startswith("resize-"):
        run = resize(twin, kind.removeprefix("resize-"), name, batch)
    elif kind == "tapped":
        run = tapped(twin, name, batch)
    elif kind == "forward":
        run = forward(twin, name, batch)
    elif kind == "train":
        run = train(twin, name, batch)
    elif kind in ("invert", "invert-graphs"):
        run = invert(twin, name, batch)
    else:
        run = distil(twin, batch, reports=twin.gpu and kind != "distil-bare")
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
    sizes, *words = shape.split("-")
    size, inputs, outputs = (int(number) for number in sizes.split("x"))
    kernel = next((int(word[0]) for word in words if "x" in word), 3)
    stride = next((int(word[1:]) for word in words if word[0] == "s"), 1)
    groups = inputs if "depthwise" in words else 1
    dtype = torch.bfloat16 if twin.variant.bf16 else torch.float32
    x = twin.images(batch, inputs, size, size).to(dtype)
    weight = twin.images(outputs, inputs // groups, kernel, kernel).to(dtype)
    settings = ([stride] * 2, [kernel // 2] * 2, [1, 1])
    out = (size - 1) // stride + 1
    gradient = twin.images(batch, outputs, out, out).to(dtype)
    wanted = [direction == "input", direction == "weight", False]

    def run():
        with torch.inference_mode():
            for _ in range(CALLS):
                if direction == "forward":
                    F.conv2d(x, weight, None, *settings, groups)
                else:
                    torch.ops.aten.convolution_backward(
                        gradient, x, weight, None, *settings, False, [0, 0], groups, wanted
                    )

    return run


def resize(twin, direction, shape, batch):
    size, channels, out = (int(number) for number in shape.split("x"))
    x, gradient = twin.images(batch, channels, size, size), twin.images(batch, channels, out, out)

    def run():
        with torch.inference_mode():
            for _ in range(CALLS):
                if direction == "forward":
                    F.interpolate(x, (out, out), mode="bilinear")
                else:
                    torch.ops.aten.upsample_bilinear2d_backward(gradient, [out, out], list(x.shape), False, None, None)

    return run


def side(name):
    """Height and width of a network's images."""
    return large.SIZE if large.is_large(name) else 32


def forward(twin, name, batch):
    network, images = twin.build(name).eval(), twin.images(batch, 3, side(name), side(name))

    def run():
        with torch.inference_mode(), twin.precision():
            network(normalise(images))

    return run


def train(twin, name, batch):
    network, images = twin.build(name).train(), twin.images(batch, 3, side(name), side(name))
    sgd = twin.sgd(network)

    def run():
        sgd.zero_grad()
        with twin.precision():
            logits = network(normalise(images))[1]
            loss = F.cross_entropy(logits, labels_for(logits))
        loss.backward()
        sgd.step()

    return run


def labels_for(logits):
    """Classes in turn, one for each row of logits."""
    shape = logits.shape[:1] + logits.shape[2:]
    return (torch.arange(shape.numel(), device=logits.device) % 10).reshape(shape)


def tap_statistics(network):
    """A list that each run fills with how far the statistics of every batch norm's input are from the running ones."""
    norms = []

    def tap(module, inputs, _):
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
        norms.append(torch.norm(mean - module.running_mean) + torch.norm(variance - module.running_var))

    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(tap)
    return norms


def tapped(twin, name, batch):
    """The teacher's part of an inversion step, and the images' gradient."""
    network = frozen(twin.build(name, compiled=False))
    images = twin.images(batch, 3, side(name), side(name)).requires_grad_()
    norms = tap_statistics(network)

    def loss_of(images):
        norms.clear()
        logits = network(normalise(images))[1]
        return sum(norms) + F.cross_entropy(logits, logits.argmax(1))

    if twin.variant.mode:
        loss_of = torch.compile(loss_of, mode=twin.variant.mode)

    def run():
        with twin.precision():
            loss = loss_of(images)
        torch.autograd.grad(loss, images)

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


def invert(twin, name, batch):
    """A whole step of inversion: the generator, the tapped teacher, the student, if any; the labels of the rounded images."""
    name, adversary = name.split("/") if "/" in name else (name, None)
    teacher, labels = frozen(twin.build(name, compiled=False)), frozen(twin.build(name))
    student = frozen(twin.build(adversary, compiled=False)) if adversary else None
    generator = large.generator(256, 64) if large.is_large(name) else Generator(256, 64, 32, 3)
    generator = twin.place(generator).train()
    adam = twin.adam(generator)
    norms = tap_statistics(teacher)

    def loss_of(z):
        norms.clear()
        x = generator(z)
        t = teacher(normalise(x))[1]
        t = t if t.dim() == 2 else t.permute(0, 2, 3, 1).flatten(0, 2)  # a row for each pixel
        mean = t.softmax(1).mean(0)
        terms = [sum(norms), 0.5 * F.cross_entropy(t, t.argmax(1)), 10 * (mean * mean.log()).sum()]
        if student is not None:
            log_t = F.log_softmax(t, 1)
            log_s = F.log_softmax(student(normalise(x))[1], 1)
            terms.append(-(log_t.exp() * (log_t - log_s)).sum(1).mean())
        return x, sum(terms), terms

    if twin.variant.mode:
        loss_of = torch.compile(loss_of, mode=twin.variant.mode)

    def run():
        with twin.precision():
            x, loss, terms = loss_of(torch.randn(batch, 256, device=twin.device))
        if twin.gpu:
            # The terms, as ours reads them back to see whether they are finite.
            torch.stack([term.detach().float() for term in (*terms, loss)]).cpu()
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.inference_mode(), twin.precision():
            logits = labels(normalise((x.detach() * 255).round() / 255))[1]
        logits.argmax(1).cpu()

    return run
