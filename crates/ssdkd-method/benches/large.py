"""Networks of torchvision at 224 pixels, with random weights: for `twins.py`, and as files for `steps.rs`."""

import pathlib

import torch

SIZE = 224
KINDS = ("forward", "train", "tapped", "invert")
NETWORKS = ("resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0", "deeplabv3_mobilenet_v3")


def is_large(name):
    return "@" in name


class Scores(torch.nn.Module):
    """A segmentation network's scores alone."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x)["out"]


class Pair(torch.nn.Module):
    """As the networks of `networks.py`: something, and logits."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return None, self.network(x)


def plain(name):
    import torchvision

    if name.startswith("deeplabv3"):
        network = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=21
        )
        return without_chance(Scores(network))
    # Nothing that only training does: the graphs have none of it.
    more = {"stochastic_depth_prob": 0.0} if name.startswith("efficientnet") else {}
    return without_chance(getattr(torchvision.models, name)(weights=None, **more))


def without_chance(network):
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return network


def network(name):
    """The network of `NAME@224`."""
    return Pair(plain(name.split("@")[0]))


def generator(latent, width):
    """Ours for images of SIZE pixels: five stages, the first of which gets a map of 7 × 7."""
    nn, maps = torch.nn, [2 * width, 2 * width, 2 * width, width, width // 2, width // 4]
    start = SIZE >> (len(maps) - 1)
    layers = [nn.Linear(latent, maps[0] * start**2), nn.Unflatten(1, (maps[0], start, start)), nn.BatchNorm2d(maps[0])]
    for before, after in zip(maps, maps[1:]):
        convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
        layers += [nn.Upsample(scale_factor=2), convolution, nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(maps[-1], 3, 3, padding=1), nn.Sigmoid())


def export(name, folder):
    """Writes `NAME.pt2`, if it is not there."""
    path = pathlib.Path(folder) / f"{name}.pt2"
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    program = torch.export.export(
        plain(name).eval(),
        (torch.rand(2, 3, SIZE, SIZE),),
        dynamic_shapes=({0: torch.export.Dim.AUTO},),
    )
    new = path.with_suffix(".new.pt2")
    torch.export.save(program, new)
    new.replace(path)
