"""Golden values of the networks and optimisers, from PyTorch: `nn.safetensors`, read by the tests of ssdkd-nn.

The networks are written down here in PyTorch's words, with the tensor names of the public code they are known from.
Their weights are an integer hash of name and position that the tests repeat, so nothing large is stored: of every
gradient and buffer, the norm and the first entries. Everything is computed in double precision, so that only the other
side rounds.
"""

import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

torch.set_num_threads(1)
golden = {}


def formula(seed: int, shape, scale: float = 1.0) -> torch.Tensor:
    """Numbers in [-scale, scale) by an integer hash of (seed, position)."""
    h = np.arange(int(np.prod(shape)), dtype=np.uint32) * np.uint32(2654435761) + np.uint32(seed * 40503 + 12345)
    h ^= h >> np.uint32(15)
    h *= np.uint32(2246822519)
    h ^= h >> np.uint32(13)
    values = (h.astype(np.float64) / 2.0**32 - 0.5) * (2.0 * scale)
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def fill(net):
    """Formula weights: seeds from the names, so that the order of tensors does not matter."""
    for name, value in net.state_dict().items():
        if value.dtype != torch.float32:
            continue
        seed = 0x811C9DC5
        for byte in name.encode():  # FNV-1a
            seed = ((seed ^ byte) * 0x01000193) & 0xFFFFFFFF
        h = formula(seed % 100_003, tuple(value.shape))
        if name.endswith("running_mean"):
            h = 0.2 * h
        elif name.endswith("running_var"):
            h = 1.0 + 0.5 * h
        elif value.ndim > 1:
            h = h * float(np.float32(np.sqrt(6.0 / value[0].numel())))
        elif name.endswith("weight"):
            h = 1.0 + 0.2 * h
        else:
            h = 0.1 * h
        value.copy_(h)
    return net.double()


def keep(name, value):
    golden[name] = torch.as_tensor(value).detach().float().contiguous().clone()


def summary(tensor):
    """The norm and the first four entries."""
    flat = F.pad(tensor.detach().flatten(), (0, 4))
    return torch.cat([flat.norm()[None], flat[:4]])


# --- the families -----------------------------------------------------------------------------------------------------


def conv3x3(inputs, outputs, stride=1, bias=False):
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=bias)


class Basic(nn.Module):
    """He et al.'s block. `shortcut`: "A" pads channels with zeros, any other is the name of a 1×1 convolution."""

    def __init__(self, inputs, outputs, stride, shortcut):
        super().__init__()
        self.conv1, self.bn1 = conv3x3(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv3x3(outputs, outputs), nn.BatchNorm2d(outputs)
        self.name = None
        if stride != 1 or inputs != outputs:
            self.name = shortcut
            self.pad = (outputs - inputs) // 2
            if shortcut != "A":
                path = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
                self.add_module(shortcut, path)

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.name == "A":
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        elif self.name:
            x = getattr(self, self.name)(x)
        return F.relu(y + x)


class ResNet(nn.Module):
    def __init__(self, widths, blocks, shortcut, head, classes):
        super().__init__()
        self.conv1, self.bn1 = conv3x3(3, widths[0]), nn.BatchNorm2d(widths[0])
        inputs, self.groups = widths[0], len(widths)
        for group, (width, count) in enumerate(zip(widths, blocks)):
            layers = []
            for index in range(count):
                layers.append(Basic(inputs, width, 2 if group and not index else 1, shortcut))
                inputs = width
            self.add_module(f"layer{group + 1}", nn.Sequential(*layers))
        self.add_module(head, nn.Linear(inputs, classes))
        self.head = head

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        for group in range(self.groups):
            x = getattr(self, f"layer{group + 1}")(x)
        features = x.mean((2, 3))
        return features, getattr(self, self.head)(features)


class WideBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv3x3(inputs, outputs, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), conv3x3(outputs, outputs)
        self.convShortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        y = F.relu(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(y)
        return shortcut + self.conv2(F.relu(self.bn2(self.conv1(y))))


class WideGroup(nn.Module):
    def __init__(self, inputs, outputs, stride, count):
        super().__init__()
        blocks = [WideBlock(inputs if i == 0 else outputs, outputs, stride if i == 0 else 1) for i in range(count)]
        self.layer = nn.Sequential(*blocks)

    def forward(self, x):
        return self.layer(x)


class WideResNet(nn.Module):
    def __init__(self, depth, width, classes):
        super().__init__()
        count = (depth - 4) // 6
        self.conv1 = conv3x3(3, 16)
        self.block1 = WideGroup(16, 16 * width, 1, count)
        self.block2 = WideGroup(16 * width, 32 * width, 2, count)
        self.block3 = WideGroup(32 * width, 64 * width, 2, count)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, classes)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        features = F.relu(self.bn1(x)).mean((2, 3))
        return features, self.fc(features)


class Vgg11(nn.Module):
    def __init__(self, classes):
        super().__init__()
        inputs = 3
        for block, widths in enumerate([[64], [128], [256, 256], [512, 512], [512, 512]]):
            layers = []
            for width in widths:
                layers += [conv3x3(inputs, width, bias=True), nn.BatchNorm2d(width), nn.ReLU()]
                inputs = width
            self.add_module(f"block{block}", nn.Sequential(*layers[:-1]))  # the last ReLU comes before the pool
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x):
        for block in range(5):
            x = F.relu(getattr(self, f"block{block}")(x))
            if block < 3:
                x = F.max_pool2d(x, 2, 2)
        features = x.mean((2, 3))
        return features, self.classifier(features)


class Generator(nn.Module):
    def __init__(self, latent, width, size, channels):
        super().__init__()
        self.shape = (-1, width * 2, size // 4, size // 4)
        self.l1 = nn.Sequential(nn.Linear(latent, width * 2 * (size // 4) ** 2))
        self.conv_blocks = nn.Sequential(
            nn.BatchNorm2d(width * 2),
            nn.Upsample(scale_factor=2),
            conv3x3(width * 2, width * 2),
            nn.BatchNorm2d(width * 2),
            nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2),
            conv3x3(width * 2, width),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.2),
            conv3x3(width, channels, bias=True),
            nn.Sigmoid(),
        )

    def forward(self, z):
        return self.conv_blocks(self.l1(z).reshape(self.shape))


def cifar(depth, shortcut="A", head="linear", classes=10):
    return ResNet([16, 32, 64], [(depth - 2) // 6] * 3, shortcut, head, classes)


def wide_stem(blocks, classes=10):
    return ResNet([64, 128, 256, 512], blocks, "shortcut", "linear", classes)


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
    "generator": Generator(256, 64, 32, 3),
}.items():
    counts = [sum(p.numel() for p in net.parameters()), len(net.state_dict())]
    golden[f"counts.{name}"] = torch.tensor(counts)
    print(f"{name:14} {counts[0]:10,} parameters, {counts[1]:4} tensors")

# --- classifiers: evaluation, inversion, one training step ------------------------------------------------------------------

SIZE, BATCH, CLASSES = 16, 4, 7
TARGETS = torch.tensor([3, 0, 6, 2])


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
}.items():
    with torch.no_grad():
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
    (F.cross_entropy(logits, TARGETS) + 0.1 * sum(distances.values())).backward()
    keep(f"{name}.inverted", summary(leaf.grad))
    net.zero_grad()
    for hook in hooks:
        hook.remove()

    net.train()
    leaf = images.clone().requires_grad_()
    _, logits = net(leaf.permute(0, 3, 1, 2))
    loss = F.cross_entropy(logits, TARGETS)
    loss.backward()
    keep(f"{name}.train.logits", logits)
    keep(f"{name}.train.loss", loss[None])
    keep(f"{name}.train.images", summary(leaf.grad))
    keep(f"{name}.train.gradients", torch.stack([summary(p.grad) for _, p in sorted_parameters(net)]))
    running = [(n, b) for n, b in sorted(net.named_buffers()) if b.dtype == torch.float64]
    keep(f"{name}.train.buffers", torch.stack([summary(b) for _, b in running]))

# --- the generator ------------------------------------------------------------------------------------------------------------

net = Generator(16, 6, 16, 3)
with torch.no_grad():
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
