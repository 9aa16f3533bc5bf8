"""The networks of the model zoo in PyTorch's words, with the tensor names of the public code they are known from.

Imported by `nn.py`, which makes golden values of them, and by `crates/ssdkd-method/benches/pytorch.py`, which times them.
"""

import torch.nn.functional as F
from torch import nn


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


class Pyramid:
    """Of a backbone that labels pixels: what takes the last map of each group to scores of every pixel."""

    def label_pixels(self, widths, classes):
        width = 2 * widths[0]
        for group, channels in enumerate(widths):
            self.add_module(f"lateral{group + 1}", nn.Conv2d(channels, width, 1))
        self.smooth = nn.Sequential(conv3x3(width, width), nn.BatchNorm2d(width))
        self.score = nn.Conv2d(width, classes, 1)

    def scores(self, maps):
        """Features, and a row of logits for each pixel."""
        above = 0
        for group in reversed(range(len(maps))):
            above = getattr(self, f"lateral{group + 1}")(maps[group]) + above
            above = F.interpolate(above, scale_factor=2) if group else above
        logits = self.score(F.relu(self.smooth(above)))
        return maps[-1].mean((2, 3)), logits.permute(0, 2, 3, 1).flatten(0, 2)


class PixelResNet(ResNet, Pyramid):
    def __init__(self, widths, blocks, shortcut, classes):
        super().__init__(widths, blocks, shortcut, "linear", classes)
        del self.linear
        self.label_pixels(widths, classes)

    def forward(self, x):
        x, maps = F.relu(self.bn1(self.conv1(x))), []
        for group in range(self.groups):
            x = getattr(self, f"layer{group + 1}")(x)
            maps.append(x)
        return self.scores(maps)


class WideBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv3x3(inputs, outputs, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), conv3x3(outputs, outputs)
        self.convShortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        self.activated = y = F.relu(self.bn1(x))
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


class PixelWideResNet(WideResNet, Pyramid):
    def __init__(self, depth, width, classes):
        super().__init__(depth, width, classes)
        del self.fc
        self.label_pixels([16 * width, 32 * width, 64 * width], classes)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        # A group's map is what the next one's first activation made of its sum.
        maps = [self.block2.layer[0].activated, self.block3.layer[0].activated, F.relu(self.bn1(x))]
        return self.scores(maps)


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


def pixel_cifar(depth, shortcut="A", classes=10):
    return PixelResNet([16, 32, 64], [(depth - 2) // 6] * 3, shortcut, classes)


def wide_stem(blocks, classes=10):
    return ResNet([64, 128, 256, 512], blocks, "shortcut", "linear", classes)
