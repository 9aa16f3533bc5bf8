"""Golden values of the networks and optimisers, from PyTorch: `nn.safetensors`, read by the tests of ssdkd-nn.

The networks are those of `networks.py`. Their weights are an integer hash of name and position that the tests repeat, so
nothing large is stored: of every gradient and buffer, the norm and the first entries. Everything is computed in double
precision, so that only the other side rounds.
"""

import pathlib

import torch
import torch.nn.functional as F
from formula import fill, formula, summary
from networks import Generator, PixelWideResNet, Vgg11, WideResNet, cifar, pixel_cifar, wide_stem
from safetensors.torch import save_file
from torch import nn

torch.set_num_threads(1)
golden = {}


def keep(name, value):
    golden[name] = torch.as_tensor(value).detach().float().contiguous().clone()


# --- how many numbers are trained, and how many tensors there are ---------------------------------------------------------

for name, net in {
    "resnet8": cifar(8),
    "resnet20": cifar(20),
    "resnet32": cifar(32),
    "resnet56": cifar(56),
    "resnet110": cifar(110),
    "resnet20-conv": cifar(20, "shortcut"),
    "resnet18": wide_stem([2, 2, 2, 2]),
    "resnet34": wide_stem([3, 4, 6, 3]),
    "wrn-16-1": WideResNet(16, 1, 10),
    "wrn-16-2": WideResNet(16, 2, 10),
    "wrn-40-1": WideResNet(40, 1, 10),
    "wrn-40-2": WideResNet(40, 2, 10),
    "vgg11": Vgg11(10),
    "fpn-resnet20": pixel_cifar(20),
    "fpn-wrn-40-2": PixelWideResNet(40, 2, 10),
    "generator": Generator(256, 64, 32, 3),
}.items():
    counts = [sum(p.numel() for p in net.parameters()), len(net.state_dict())]
    golden[f"counts.{name}"] = torch.tensor(counts)
    print(f"{name:14} {counts[0]:10,} parameters, {counts[1]:4} tensors")

# --- classifiers: evaluation, inversion, one training step ------------------------------------------------------------------

SIZE, BATCH, CLASSES = 16, 4, 7
TARGETS = torch.tensor([3, 0, 6, 2])


def targets(logits):
    """The class of each image, for all of its rows."""
    return TARGETS.repeat_interleave(len(logits) // BATCH)


def norms(net):
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]


def sorted_parameters(net):
    return sorted(net.named_parameters())


for name, net in {
    "resnet20": cifar(20, classes=CLASSES),
    "resnet8-conv": cifar(8, "downsample", "fc", CLASSES),
    "resnet18": wide_stem([2, 2, 2, 2], CLASSES),
    "wrn-16-1": WideResNet(16, 1, CLASSES),
    "wrn-16-2": WideResNet(16, 2, CLASSES),
    "vgg11": Vgg11(CLASSES),
    "fpn-resnet8": pixel_cifar(8, classes=CLASSES),
    "fpn-wrn-16-1": PixelWideResNet(16, 1, CLASSES),
}.items():
    fill(net)
    images = formula(7, (BATCH, SIZE, SIZE, 3), 2.0).double()  # (B, H, W, C), normalised

    net.eval()
    taps = {}
    hooks = [m.register_forward_pre_hook(lambda m, i: taps.update({m: i[0]})) for m in norms(net)]
    leaf = images.clone().requires_grad_()
    features, logits = net(leaf.permute(0, 3, 1, 2))
    keep(f"{name}.eval.features", features)
    keep(f"{name}.eval.logits", logits)
    distances = {}
    for path, module in net.named_modules():
        if module in taps:
            mean = taps[module].mean((0, 2, 3))
            variance = taps[module].var((0, 2, 3), unbiased=False)
            distances[path] = (mean - module.running_mean).norm() + (variance - module.running_var).norm()
    keep(f"{name}.taps", torch.stack(sorted(distances.values())))
    (F.cross_entropy(logits, targets(logits)) + 0.1 * sum(distances.values())).backward()
    keep(f"{name}.inverted", summary(leaf.grad))
    net.zero_grad()
    for hook in hooks:
        hook.remove()

    net.train()
    leaf = images.clone().requires_grad_()
    _, logits = net(leaf.permute(0, 3, 1, 2))
    loss = F.cross_entropy(logits, targets(logits))
    loss.backward()
    keep(f"{name}.train.logits", logits)
    keep(f"{name}.train.loss", loss[None])
    keep(f"{name}.train.images", summary(leaf.grad))
    keep(f"{name}.train.gradients", torch.stack([summary(p.grad) for _, p in sorted_parameters(net)]))
    running = [(n, b) for n, b in sorted(net.named_buffers()) if b.dtype == torch.float64]
    keep(f"{name}.train.buffers", torch.stack([summary(b) for _, b in running]))

# --- the generator ------------------------------------------------------------------------------------------------------------

net = Generator(16, 6, 16, 3)
fill(net)
latents = formula(8, (5, 16), 2.0).double()
keep("generator.eval.images", net.eval()(latents).permute(0, 2, 3, 1))
leaf = latents.clone().requires_grad_()
images = net.train()(leaf).permute(0, 2, 3, 1)
keep("generator.train.images", images)
(images * formula(9, (5, 16, 16, 3)).double()).mean().backward()
keep("generator.train.latents", leaf.grad)
keep("generator.train.gradients", torch.stack([summary(p.grad) for _, p in sorted_parameters(net)]))
running = [(n, b) for n, b in sorted(net.named_buffers()) if b.dtype == torch.float64]
keep("generator.train.buffers", torch.stack([summary(b) for _, b in running]))

# --- optimisers: five steps, the gradient is a formula plus the parameter itself -----------------------------------------------

STEPS, LENGTH = 5, 7


def optimise(name, make):
    parameter = formula(50, (LENGTH,)).double().requires_grad_()
    optimizer = make([parameter])
    for step in range(STEPS):
        parameter.grad = parameter.detach() + formula(51 + step, (LENGTH,)).double()
        optimizer.step()
    keep(f"optimizer.{name}", parameter)


optimise("sgd.plain", lambda p: torch.optim.SGD(p, 0.1))
optimise("sgd.momentum", lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=5e-2))
optimise("sgd.nesterov", lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=5e-2, nesterov=True))
optimise("adam.generator", lambda p: torch.optim.Adam(p, 0.05, betas=(0.5, 0.999)))
optimise("adam.decay", lambda p: torch.optim.Adam(p, 0.05, betas=(0.9, 0.999), weight_decay=0.1))

# --- learning rates -------------------------------------------------------------------------------------------------------------

TOTAL = 40


def rates(name, make):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.2)
    schedule, found = make(optimizer), []
    for _ in range(TOTAL):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    keep(f"schedule.{name}", torch.tensor(found))


rates("cosine", lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, TOTAL - 1, 2e-4))
rates("milestones", lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [10, 25], 0.1))
rates("one_cycle", lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.2, TOTAL + 1, cycle_momentum=False))
rates("warm_up", lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: min(1.0, (step + 1) / 8)))

save_file(golden, pathlib.Path(__file__).with_suffix(".safetensors"))

# --- checkpoints in both of PyTorch's formats, with what makes them hard to read ------------------------------------------------

ramp = torch.arange(24, dtype=torch.float32).reshape(4, 6)
state = {
    "module.whole": ramp,
    "module.transposed": ramp.t(),  # shares its storage with `whole`
    "module.window": ramp[1:3, 2:5],
    "module.parameter": nn.Parameter(ramp[0] + 0.5),
    "module.double": ramp[0].double(),
    "module.half": ramp[0].half(),
    "module.bfloat": ramp[0].bfloat16(),
    "module.count": torch.tensor(7),
    "module.empty": torch.zeros(0, 3),
}
optimizer = {"state": {0: {"step": torch.tensor(3, dtype=torch.int32), "mask": torch.tensor([True, False])}}}
checkpoint = {"epoch": 3, "accuracy": 91.5, "state_dict": state, "optimizer": optimizer, "arch": "none"}
for name, zipped in [("nn_zip.pth", True), ("nn_stream.pth", False)]:
    path = pathlib.Path(__file__).with_name(name)
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
