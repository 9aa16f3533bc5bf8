"""Golden values of the networks of torchvision and of public CIFAR code, from PyTorch: `zoo_nn.safetensors`, read by the tests of
ssdkd-nn.

Weights are formulas of the tensors' names (`formula.py`), everything is in double precision, and large results are kept as
summaries. Dropout is off in training, as our networks have none. Of every network there is a hash of the names and shapes of its
tensors; the first ones are computed too.
"""

import pathlib

import torch
import torch.nn.functional as F
from formula import fill, formula, hash_of, summary
from safetensors.torch import save_file
from torch import nn
from torchvision import models

CLASSES = 7
TARGETS = torch.tensor([3, 0])
golden = {}


def keep(name, value):
    golden[name] = torch.as_tensor(value).detach().float().contiguous().clone()


class Head(nn.Module):
    """A network of torchvision, which also returns what its last layer sees."""

    def __init__(self, net, last):
        super().__init__()
        self.net = net
        self.seen = {}
        net.get_submodule(last).register_forward_pre_hook(lambda _, inputs: self.seen.update(features=inputs[0]))

    def forward(self, x):
        logits = self.net(x)
        return self.seen["features"], logits


class Pixels(nn.Module):
    """A segmentation network of torchvision: the mean of its last feature map, and a row of logits for each pixel."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        features = self.net.backbone(x)["out"].mean((2, 3))
        return features, self.net(x)["out"].permute(0, 2, 3, 1).flatten(0, 2)


class Bottleneck(nn.Module):
    """As in kuangliu/pytorch-cifar."""

    def __init__(self, inputs, planes, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, planes, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = nn.Conv2d(planes, 4 * planes, 1, bias=False), nn.BatchNorm2d(4 * planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != 4 * planes:
            convolution = nn.Conv2d(inputs, 4 * planes, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(4 * planes))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class CifarBottlenecks(nn.Module):
    """ResNet-50 and -101 of kuangliu/pytorch-cifar."""

    def __init__(self, blocks):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64)
        inputs = 64
        for group, (planes, count) in enumerate(zip([64, 128, 256, 512], blocks)):
            layers = []
            for index in range(count):
                layers.append(Bottleneck(inputs, planes, 2 if group and not index else 1))
                inputs = 4 * planes
            self.add_module(f"layer{group + 1}", nn.Sequential(*layers))
        self.linear = nn.Linear(inputs, CLASSES)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        features = self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3))
        return features, self.linear(features)


class Basic(nn.Module):
    """As in RepDistiller."""

    def __init__(self, inputs, planes, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False), nn.BatchNorm2d(planes)
        self.downsample = None
        if stride != 1 or inputs != planes:
            convolution = nn.Conv2d(inputs, planes, 1, stride, bias=False)
            self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(planes))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class FourTimesWide(nn.Module):
    """resnet8x4 and so on of RepDistiller."""

    def __init__(self, depth):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32)
        inputs = 32
        for group, planes in enumerate([64, 128, 256]):
            layers = []
            for index in range((depth - 2) // 6):
                layers.append(Basic(inputs, planes, 2 if group and not index else 1))
                inputs = planes
            self.add_module(f"layer{group + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(inputs, CLASSES)

    def forward(self, x):
        features = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x)))))).mean((2, 3))
        return features, self.fc(features)


class CifarVgg(nn.Module):
    """VGG with batch norm for 32×32 pixels: torchvision's `features`, then one linear layer (kuangliu/pytorch-cifar) or three with
    512 features (chenyaofo/pytorch-cifar-models)."""

    def __init__(self, depth, layers):
        super().__init__()
        self.features = getattr(models, f"vgg{depth}_bn")(weights=None).features
        self.classifier = nn.Linear(512, CLASSES)
        if layers == 3:
            rest = [nn.Linear(512, 512), nn.ReLU(), nn.Dropout(), nn.Linear(512, 512), nn.ReLU(), nn.Dropout()]
            self.classifier = nn.Sequential(*rest, self.classifier)

    def forward(self, x):
        x = self.features(x).flatten(1)
        if isinstance(self.classifier, nn.Linear):
            return x, self.classifier(x)
        features = self.classifier[:-1](x)
        return features, self.classifier[-1](features)


def torchvision(name, last, **options):
    return Head(getattr(models, name)(weights=None, num_classes=CLASSES, **options), last)


def deeplab(depth):
    make = getattr(models.segmentation, f"deeplabv3_resnet{depth}")
    return Pixels(make(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=None))


# Height and width of the images, and how much is computed: 1 the logits, 2 the gradients of inversion, 3 a training step, 0 nothing.
NETWORKS = {
    "torchvision/resnet18": (lambda: torchvision("resnet18", "fc"), (64, 64), 3),
    "torchvision/resnet34": (lambda: torchvision("resnet34", "fc"), (32, 48), 1),
    "torchvision/resnet50": (lambda: torchvision("resnet50", "fc"), (64, 64), 3),
    "torchvision/resnet101": (lambda: torchvision("resnet101", "fc"), (32, 32), 1),
    "resnet50": (lambda: CifarBottlenecks([3, 4, 6, 3]), (16, 16), 3),
    "resnet101": (lambda: CifarBottlenecks([3, 4, 23, 3]), (8, 8), 1),
    "resnet8x4": (lambda: FourTimesWide(8), (16, 16), 3),
    "resnet32x4": (lambda: FourTimesWide(32), (16, 16), 1),
    "torchvision/vgg11_bn": (lambda: torchvision("vgg11_bn", "classifier.6"), (64, 64), 2),
    "torchvision/vgg13_bn": (lambda: torchvision("vgg13_bn", "classifier.6"), None, 0),
    "torchvision/vgg16_bn": (lambda: torchvision("vgg16_bn", "classifier.6"), None, 0),
    "torchvision/vgg19_bn": (lambda: torchvision("vgg19_bn", "classifier.6"), None, 0),
    "vgg11_bn": (lambda: CifarVgg(11, 1), (32, 32), 2),
    "vgg13_bn": (lambda: CifarVgg(13, 1), (32, 32), 1),
    "vgg16_bn": (lambda: CifarVgg(16, 1), (32, 32), 1),
    "vgg19_bn": (lambda: CifarVgg(19, 1), (32, 32), 1),
    "vgg11_bn-mlp": (lambda: CifarVgg(11, 3), (32, 32), 2),
    "vgg16_bn-mlp": (lambda: CifarVgg(16, 3), None, 0),
    "torchvision/mobilenet_v2": (lambda: torchvision("mobilenet_v2", "classifier.1"), (64, 64), 3),
    "torchvision/mobilenet_v2*0.5": (lambda: torchvision("mobilenet_v2", "classifier.1", width_mult=0.5), (48, 64), 1),
    "torchvision/mobilenet_v2*1.4": (lambda: torchvision("mobilenet_v2", "classifier.1", width_mult=1.4), None, 0),
    "torchvision/mobilenet_v3_small": (lambda: torchvision("mobilenet_v3_small", "classifier.3"), (64, 64), 3),
    # 3 by 38 pixels before the head, so that its convolutions reach 12, 24 and 36 pixels far.
    "torchvision/deeplabv3_resnet50": (lambda: deeplab(50), (24, 304), 2),
    "torchvision/deeplabv3_resnet101": (lambda: deeplab(101), None, 0),
}


def targets(logits):
    """The class of each image, for all of its rows."""
    return TARGETS.repeat_interleave(len(logits) // len(TARGETS))


def named(pairs):
    """Sorted by the names in the files."""
    return sorted((name.removeprefix("net."), value) for name, value in pairs)


def rows(logits):
    """All rows of a few, about a hundred of many."""
    return logits[:: 1 + len(logits) // 100]


for name, (make, size, amount) in NETWORKS.items():
    net = make()
    tensors = named(net.state_dict().items())
    lines = "".join(f"{name} {list(value.shape)}\n" for name, value in tensors)
    golden[f"{name}.tensors"] = torch.tensor([len(tensors), hash_of(lines)])
    if not amount:
        continue
    fill(net.net if hasattr(net, "net") else net)
    net.double()
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    images = formula(7, (len(TARGETS), *size, 3), 2.0).double()

    net.eval()
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    taps = {}
    hooks = [m.register_forward_pre_hook(lambda m, i: taps.update({m: i[0]})) for m in norms]
    leaf = images.clone().requires_grad_()
    features, logits = net(leaf.permute(0, 3, 1, 2))
    keep(f"{name}.eval.features", torch.stack([summary(row) for row in features]))
    keep(f"{name}.eval.logits", rows(logits))
    if amount >= 2:
        distances = []
        for module, seen in taps.items():
            mean, variance = seen.mean((0, 2, 3)), seen.var((0, 2, 3), unbiased=False)
            distances.append((mean - module.running_mean).norm() + (variance - module.running_var).norm())
        keep(f"{name}.taps", torch.stack(sorted(distances)))
        (F.cross_entropy(logits, targets(logits)) + 0.1 * sum(distances)).backward()
        keep(f"{name}.inverted", summary(leaf.grad))
        net.zero_grad()
    for hook in hooks:
        hook.remove()

    if amount >= 3:
        net.train()
        leaf = images.clone().requires_grad_()
        _, logits = net(leaf.permute(0, 3, 1, 2))
        loss = F.cross_entropy(logits, targets(logits))
        loss.backward()
        keep(f"{name}.train.logits", rows(logits))
        keep(f"{name}.train.loss", loss[None])
        keep(f"{name}.train.images", summary(leaf.grad))
        keep(f"{name}.train.gradients", torch.stack([summary(p.grad) for _, p in named(net.named_parameters())]))
        running = [buffer for _, buffer in named(net.named_buffers()) if buffer.dtype == torch.float64]
        keep(f"{name}.train.buffers", torch.stack([summary(buffer) for buffer in running]))
    print(f"{name}: {len(tensors)} tensors")

save_file(golden, pathlib.Path(__file__).with_suffix(".safetensors"))
