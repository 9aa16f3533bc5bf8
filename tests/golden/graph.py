"""Golden networks for ssdkd-graph, from PyTorch: `graph/NAME.pt2`, `graph/NAME.onnx` and `graph/NAME.safetensors`.

The networks are small and have random weights. Together they use every operation that the readers know. Each safetensors file
has an input, the outputs, the gradient of the outputs' mean square with respect to the input, and the mean and the biased variance
at the input of each batch normalization. The number of images in it is not that of the export.

Stack traces and sample inputs are removed from the files: they hold paths of this machine, and most of the bytes.
"""

import io
import json
import logging
import pathlib
import warnings
import zipfile

import onnx
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
torch.set_num_threads(1)
FOLDER = pathlib.Path(__file__).parent / "graph"
HEIGHT, WIDTH = 24, 32


class Block(nn.Module):
    """A basic block of ResNet."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class ResNet(nn.Module):
    """A 7×7 stem, max pooling, blocks with and without a convolution in the shortcut."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Block(8, 8, 1), Block(8, 8, 1))
        self.layer2 = nn.Sequential(Block(8, 12, 2))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(12, 5)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(self.avgpool(self.layer2(self.layer1(x))), 1))


class Inverted(nn.Module):
    """Inverted residuals with squeeze-and-excitation and all smooth activations, of another epsilon and momentum."""

    def __init__(self):
        super().__init__()
        norm = lambda channels: nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), norm(8), nn.Hardswish(inplace=True))
        self.expand = nn.Sequential(nn.Conv2d(8, 16, 1, bias=False), norm(16), nn.ReLU6(inplace=True))
        self.depthwise = nn.Sequential(nn.Conv2d(16, 16, 5, 1, 2, groups=16, bias=False), norm(16), nn.SiLU(inplace=True))
        self.squeeze = nn.Conv2d(16, 4, 1)
        self.excite = nn.Conv2d(4, 16, 1)
        self.project = nn.Sequential(nn.Conv2d(16, 8, 1, bias=False), norm(8))
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Sigmoid())
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(8, 6))

    def forward(self, x):
        x = self.stem(x)
        y = self.depthwise(self.expand(x))
        scale = F.hardsigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        y = self.project(scale * y) + x
        y = y * self.gate(y)
        return self.classifier(y.mean((2, 3)))


class Same(nn.Module):
    """Padding that differs from side to side, slopes, constants, and pooling before a linear layer that sees pixels."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 2, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.prelu = nn.PReLU(8)
        self.conv2 = nn.Conv2d(8, 8, 3, 2, groups=8, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 8).reshape(8, 1, 1))
        self.conv3 = nn.Conv2d(8, 10, (1, 7), padding="same")
        self.pool = nn.AdaptiveAvgPool2d((3, 2))
        self.head = nn.Sequential(nn.Linear(60, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x):
        x = self.prelu(self.bn1(self.conv1(F.pad(x, (0, 1, 0, 1)))))
        x = F.leaky_relu(self.bn2(self.conv2(F.pad(x, (0, 1, 0, 1)))), 0.2)
        x = self.conv3(x * self.scale + 0.25)
        return self.head(torch.flatten(self.pool(x), 1))


class Shuffle(nn.Module):
    """Concatenations, slices, a channel shuffle, groups, ceiling pooling, and the shortcut without parameters."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.branch = nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.grouped = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1, groups=4, bias=False), nn.BatchNorm2d(16))
        self.dilated = nn.Conv2d(20, 12, 3, 1, 2, dilation=2)
        self.fc = nn.Linear(12, 3)

    def forward(self, x):
        x = self.conv1(x)
        left, right = x.chunk(2, dim=1)
        x = torch.cat((left, self.branch(right)), 1)
        b, c, h, w = x.shape
        x = x.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, c, h, w)
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        x = F.relu(self.grouped(x) + shortcut)
        x = torch.cat([F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False), F.max_pool2d(x, 3, 2, 1, ceil_mode=True)[:, 2:6]], 1)
        return self.fc(self.dilated(x).mean((2, 3)))


class UNet(nn.Module):
    """Upsampling in every way there is, joined with what came before, and an output for each pixel."""

    def __init__(self):
        super().__init__()
        block = lambda i, o: nn.Sequential(nn.Conv2d(i, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True))
        self.down1, self.down2, self.down3 = block(3, 6), block(6, 8), block(8, 10)
        self.pool = nn.MaxPool2d(2)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.up2, self.up1 = block(18, 8), block(14, 6)
        self.transposed = nn.ConvTranspose2d(8, 8, 2, 2)
        self.low = block(10, 6)
        self.out = nn.Conv2d(6, 4, 1)

    def forward(self, x):
        a = self.down1(x)
        b = self.down2(self.pool(a))
        c = self.down3(self.pool(b))
        y = self.up2(torch.cat([b, self.up(c)], 1))
        y = self.up1(torch.cat([a, self.transposed(y)], 1))
        y = y + F.interpolate(self.low(c), scale_factor=4, mode="nearest")
        y = F.interpolate(self.out(y)[:, :, :, :], size=(12, 16), mode="bilinear", align_corners=False)
        return F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)


class Dense(nn.Module):
    """Batch norm and activation before each convolution, features that grow by concatenation, squeeze-excite with SiLU, and ReLU6."""

    def __init__(self):
        super().__init__()
        layer = lambda i: nn.Sequential(nn.BatchNorm2d(i), nn.ReLU(), nn.Conv2d(i, 4, 3, padding=1, bias=False))
        self.stem = nn.Conv2d(3, 6, 3, 2, 1, bias=False)
        self.layer1, self.layer2 = layer(6), layer(10)
        self.transition = nn.Sequential(nn.BatchNorm2d(14), nn.ReLU6(), nn.Conv2d(14, 8, 1, bias=False), nn.AvgPool2d(2))
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 2, 1), nn.SiLU(), nn.Conv2d(2, 8, 1), nn.Sigmoid())
        self.norm, self.fc = nn.BatchNorm2d(8, eps=1e-3), nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        x = torch.cat([x, self.layer1(x)], 1)
        x = self.transition(torch.cat([x, self.layer2(x)], 1))
        x = F.silu(self.norm(x * self.squeeze(x)))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def fill(net):
    """Statistics and factors that differ from channel to channel, so that no mistake in them is hidden."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.2)


def strip_pt2(data: bytes) -> bytes:
    """Without stack traces and sample inputs."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for info in old.infolist():
            content = old.read(info.filename)
            if "sample_inputs" in info.filename or "/.data/" in info.filename:
                continue
            if info.filename.endswith("models/model.json"):
                model = json.loads(content)
                for node in model["graph_module"]["graph"]["nodes"]:
                    node["metadata"].pop("stack_trace", None)
                model["graph_module"]["module_call_graph"] = []
                content = json.dumps(model, separators=(",", ":")).encode()
            new.writestr(zipfile.ZipInfo(info.filename), content)
    return out.getvalue()


def strip_onnx(model):
    """Without stack traces and what else names files."""
    for node in model.graph.node:
        kept = [entry for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"]
        kept = [(entry.key, entry.value) for entry in kept]
        del node.metadata_props[:]
        for key, value in kept:
            entry = node.metadata_props.add()
            entry.key, entry.value = key, value
    del model.graph.value_info[:]
    del model.graph.metadata_props[:]
    return model


def golden(name, net, seed):
    torch.manual_seed(seed)
    net = net().eval()
    fill(net)
    batch = {0: torch.export.Dim("batch")}
    example = torch.randn(2, 3, HEIGHT, WIDTH)
    program = torch.export.export(net, (example,), dynamic_shapes=(batch,))
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={"preprocessing.json": json.dumps({"mean": [0.5] * 3, "std": [0.25] * 3})})
    (FOLDER / f"{name}.pt2").write_bytes(strip_pt2(file.getvalue()))
    path = FOLDER / f"{name}.onnx"
    torch.onnx.export(net, (example,), path, external_data=False, optimize=False, dynamic_shapes=(batch,), verbose=False)
    onnx.save(strip_onnx(onnx.load(path)), path)

    values, moments = {}, []

    def hook(_, inputs):
        axes = [0, *range(2, inputs[0].ndim)]
        moments.append(torch.stack([inputs[0].mean(axes), inputs[0].var(axes, unbiased=False)]))

    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.register_forward_pre_hook(hook)
    x = torch.randn(3, 3, HEIGHT, WIDTH, requires_grad=True)
    y = net(x)
    (gradient,) = torch.autograd.grad(y.square().mean(), x)
    values |= {"x": x, "y": y, "g": gradient}
    values |= {f"moment.{index:03}": moment for index, moment in enumerate(moments)}
    save_file({name: value.detach().contiguous() for name, value in values.items()}, FOLDER / f"{name}.safetensors")
    print(name, *(f"{kind} {(FOLDER / f'{name}.{kind}').stat().st_size // 1024} KB" for kind in ("pt2", "onnx", "safetensors")))


def folded():
    """A network whose batch normalization the exporter folds away."""
    torch.manual_seed(9)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    path = FOLDER / "folded.onnx"
    torch.onnx.export(net, (torch.randn(2, 3, 8, 8),), path, external_data=False, verbose=False)
    model = onnx.load(path)
    for node in model.graph.node:
        kept = [(entry.key, entry.value) for entry in node.metadata_props if entry.key.startswith("pkg.onnxscript")]
        del node.metadata_props[:]
        for key, value in kept:
            entry = node.metadata_props.add()
            entry.key, entry.value = key, value
    onnx.save(model, path)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for seed, (name, net) in enumerate(
        {"resnet": ResNet, "inverted": Inverted, "same": Same, "shuffle": Shuffle, "unet": UNet, "dense": Dense}.items()
    ):
        golden(name, net, seed)
    folded()
