"""Golden values of the operations of ssdkd-ops that networks of torchvision and timm take, from PyTorch in float64.

Writes graph_ops.safetensors beside this file: `python tests/golden/graph_ops.py`, with torch and safetensors installed. Images
are (B, H, W, C) in the file, as the crate has them, and permuted here. Every case has its inputs, a gradient `grad` of its
output, the output `y` and the gradients `d_<input>`, all rounded to float32.
"""

import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.manual_seed(20261129)
torch.set_default_dtype(torch.float64)

golden = {}


def random(*shape, scale=1.0):
    """Numbers that float32 holds exactly, so that both sides start from the same ones."""
    return (torch.randn(shape) * scale).to(torch.float32).to(torch.float64)


def nchw(x):
    return x.permute(0, 3, 1, 2)


def nhwc(x):
    return x.permute(0, 2, 3, 1)


def differentiate(case, f, **inputs):
    """Runs f on leaves, walks back from a random gradient, keeps everything."""
    leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    y = f(*leaves.values())
    grad = random(*y.shape)
    gradients = torch.autograd.grad(y, list(leaves.values()), grad)
    kept = {"y": y, "grad": grad, **inputs}
    kept |= {f"d_{name}": gradient for name, gradient in zip(leaves, gradients)}
    for name, tensor in kept.items():
        golden[f"{case}/{name}"] = tensor.detach().to(torch.float32).clone().contiguous()


def on_images(f):
    """f of PyTorch's layout, of images as the file has them."""
    return lambda x, *others: nhwc(f(nchw(x), *others))


# Convolutions: padding is top, bottom, left, right.
def convolution(padding, stride, dilation, groups):
    top, bottom, left, right = padding
    return on_images(
        lambda x, weight, bias: F.conv2d(
            F.pad(x, (left, right, top, bottom)), weight, bias, stride, 0, dilation, groups
        )
    )


for case, size, channels, outputs, kernel, padding, stride, dilation, groups in [
    ("conv_same", (8, 9), 6, 10, (3, 3), (0, 1, 0, 1), (2, 2), (1, 1), 1),
    ("conv_row", (4, 9), 16, 16, (1, 7), (0, 0, 3, 3), (1, 1), (1, 1), 1),
    ("conv_winograd", (6, 7), 16, 16, (3, 3), (0, 2, 1, 0), (1, 1), (1, 1), 1),
    ("conv_steps", (8, 11), 6, 4, (3, 4), (2, 0, 1, 4), (1, 3), (2, 1), 2),
    ("conv_depthwise", (9, 8), 20, 20, (5, 5), (1, 2, 1, 2), (2, 2), (1, 1), 20),
]:
    differentiate(
        case,
        convolution(padding, stride, dilation, groups),
        x=random(1, *size, channels),
        weight=random(outputs, channels // groups, *kernel),
        bias=random(outputs),
    )
for kernel, padding, output_padding, groups in [(2, 0, 0, 1), (3, 1, 1, 1), (4, 1, 0, 2)]:
    differentiate(
        f"conv_transpose_{kernel}",
        on_images(
            lambda x, weight, bias: F.conv_transpose2d(x, weight, bias, 2, padding, output_padding, groups)
        ),
        x=random(2, 3, 4, 6),
        weight=random(6, 4, kernel, kernel),
        bias=random(4 * groups),
    )

# Activations, alone and behind a normalization with eps 0.001, with a residual and without.
ACTIVATIONS = {"relu6": F.relu6, "hard_sigmoid": F.hardsigmoid, "hard_swish": F.hardswish, "silu": F.silu}
points = random(2, 3, 4, 5, scale=3.0)
mean, variance = random(5), random(5).abs() + 0.5
for tensor, name in ((mean, "mean"), (variance, "variance")):
    golden[f"norm/{name}"] = tensor.to(torch.float32)
for name, activation in ACTIVATIONS.items():
    differentiate(name, activation, x=points)
    for kind in ("train", "eval"):

        def norm(x, gamma, beta, residual=0.0):
            z = F.batch_norm(nchw(x), mean.clone(), variance.clone(), gamma, beta, kind == "train", 0.1, 1e-3)
            return activation(nhwc(z) + residual)

        inputs = {"x": points, "gamma": random(5, scale=2.0), "beta": random(5)}
        differentiate(f"{kind}_{name}", norm, **inputs)
        differentiate(f"{kind}_{name}_residual", norm, **inputs, residual=random(2, 3, 4, 5))
differentiate("prelu", on_images(lambda x, slope: F.prelu(x, slope)), x=points, slope=random(5))
differentiate("prelu_1", on_images(lambda x, slope: F.prelu(x, slope)), x=points, slope=random(1))

# Two tensors, the second of which is smaller.
for name, shape in {"same": (2, 3, 4, 5), "images": (2, 1, 1, 5), "channels": (5,), "number": (1,)}.items():
    other = (random(*shape).abs() + 0.5).to(torch.float32).to(torch.float64)
    for case, f in {
        "add": torch.add,
        "subtract": torch.subtract,
        "multiply": torch.multiply,
        "divide": torch.divide,
    }.items():
        differentiate(f"{case}_{name}", lambda a, b: f(a, b), a=points, b=other)
differentiate("divide_swapped", lambda a, b: a / b, a=random(5), b=(points.abs() + 0.5).to(torch.float32).to(torch.float64))

# Channels.
differentiate("concat", lambda a, b, c: torch.cat([a, b, c], -1), a=points, b=random(2, 3, 4, 1), c=random(2, 3, 4, 7))
differentiate("slice", lambda x: x[..., 1:4], x=points)
differentiate("shuffle", on_images(lambda x: F.channel_shuffle(x, 3)), x=random(2, 2, 3, 12))

# Resizing and pooling.
images = random(1, 7, 6, 4)
for name, options in {
    "nearest": {"mode": "nearest"},
    "bilinear": {"mode": "bilinear", "align_corners": False},
    "corners": {"mode": "bilinear", "align_corners": True},
}.items():
    for size in ((13, 9), (4, 5), (1, 12)):
        differentiate(
            f"resize_{name}_{size[0]}_{size[1]}", on_images(lambda x: F.interpolate(x, size, **options)), x=images
        )
differentiate("max_pool_ceil", on_images(lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True)), x=images)
differentiate(
    "max_pool_sides",
    on_images(lambda x: F.max_pool2d(F.pad(x, (1, 0, 0, 2), value=-torch.inf), (3, 2), (1, 2))),
    x=images,
)
for ceil in (False, True):
    for counted in (False, True):
        differentiate(
            f"avg_pool_{int(ceil)}{int(counted)}",
            on_images(lambda x: F.avg_pool2d(x, (3, 2), 2, 1, ceil_mode=ceil, count_include_pad=counted)),
            x=images,
        )
for size in ((3, 4), (1, 1), (9, 5)):
    differentiate(
        f"adaptive_{size[0]}_{size[1]}", on_images(lambda x: F.adaptive_avg_pool2d(x, size)), x=images
    )

save_file(dict(sorted(golden.items())), pathlib.Path(__file__).with_suffix(".safetensors"))
