"""Golden values of ssdkd-ops' operations, from PyTorch in float64, rounded to float32.

Writes ops.safetensors beside this file: `python tests/golden/ops.py`, with torch and safetensors installed. Images are
(B, H, W, C) in the file, as the crate has them, and permuted here. Every case has its inputs, a gradient `grad` of its
output, the output `y` and the gradients `d_<input>`.
"""

import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.manual_seed(20240607)
torch.set_default_dtype(torch.float64)

golden = {}


def keep(case, **tensors):
    for name, tensor in tensors.items():
        golden[f"{case}/{name}"] = tensor.detach().to(torch.float32).clone().contiguous()


def random(*shape):
    """Numbers that float32 holds exactly, so that both sides start from the same ones."""
    return torch.randn(shape).to(torch.float32).to(torch.float64)


def nchw(x):
    return x.permute(0, 3, 1, 2)


def nhwc(x):
    return x.permute(0, 2, 3, 1)


def differentiate(case, f, inputs, grad=None, **constants):
    """Runs f on leaves, walks back from a random gradient, keeps everything."""
    leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    y = f(**leaves)
    grad = random(*y.shape) if grad is None else grad
    gradients = torch.autograd.grad(y, list(leaves.values()), grad)
    keep(case, y=y, grad=grad, **inputs, **constants)
    keep(case, **{f"d_{name}": gradient for name, gradient in zip(leaves, gradients)})


# Batch normalisation: 3 images of 5×4 pixels, 12 channels; the statistics are far from 0 and 1.
B, H, W, C, EPS = 3, 5, 4, 12, 1e-5
x = (random(B, H, W, C) * (1 + torch.arange(C) / 4) + torch.arange(C) - 4).to(torch.float32).to(torch.float64)
residual = random(B, H, W, C)
gamma, beta = random(C), random(C)
running_mean, running_variance = random(C), random(C).abs() + 0.5
keep("norm", x=x, residual=residual, gamma=gamma, beta=beta, running_mean=running_mean, running_variance=running_variance)
grad = random(B, H, W, C)
grad_mean, grad_variance = random(C), random(C)
keep("norm", grad=grad, grad_mean=grad_mean, grad_variance=grad_variance)
variance, mean = torch.var_mean(x, dim=(0, 1, 2), correction=0)
keep("norm", mean=mean, variance=variance)
activations = {"none": lambda z: z, "relu": F.relu, "leaky": lambda z: F.leaky_relu(z, 0.2)}
for activation, act in activations.items():
    for with_residual in (False, True):
        for kind in ("train", "eval", "tapped"):
            leaves = [t.clone().requires_grad_() for t in (x, gamma, beta, residual)]
            statistics = (None, None, leaves[1], leaves[2], True) if kind == "train" else (
                running_mean.clone(), running_variance.clone(), leaves[1], leaves[2], False)
            z = nhwc(F.batch_norm(nchw(leaves[0]), *statistics, 0.1, EPS))
            y = act(z + leaves[3] if with_residual else z)
            outputs, grads = [y], [grad]
            if kind == "tapped":
                v, m = torch.var_mean(leaves[0], dim=(0, 1, 2), correction=0)
                outputs += [m, v]
                grads += [grad_mean, grad_variance]
            wanted = leaves if with_residual else leaves[:3]
            gradients = torch.autograd.grad(outputs, wanted, grads)
            case = f"norm_{kind}_{activation}{'_residual' if with_residual else ''}"
            names = ("d_x", "d_gamma", "d_beta", "d_residual")
            kept = dict(zip(names, gradients))
            if kind != "tapped":
                kept["y"] = y
            keep(case, **kept)

# Pointwise operations and changes of layout.
points = random(2, 3, 4, 3) * 3
points = points.to(torch.float32).to(torch.float64)
differentiate("relu", lambda x: F.relu(x), {"x": points})
differentiate("leaky_relu", lambda x: F.leaky_relu(x, 0.2), {"x": points})
differentiate("sigmoid", lambda x: torch.sigmoid(x), {"x": points})
differentiate("add", lambda a, b: a + b, {"a": points, "b": random(2, 3, 4, 3)})
differentiate("mean_all", lambda x: x.mean(), {"x": points})
differentiate("nchw_to_nhwc", lambda x: nhwc(x), {"x": random(2, 5, 3, 4)})
mean, std = torch.tensor([0.25, 0.5, 0.75]), torch.tensor([0.5, 0.25, 2.0])
differentiate("affine_channels", lambda x: (x - mean) / std, {"x": points})
offsets = torch.tensor([[0, 3], [2, 2], [4, 1], [1, 4]])
flips = torch.tensor([False, True, True, False])


def crop_flip(x):
    padded = F.pad(nchw(x), (2, 2, 2, 2))
    views = []
    for image, (row, column), flip in zip(padded, offsets, flips):
        view = image[:, row : row + 5, column : column + 6]
        views.append(view.flip(-1) if flip else view)
    return nhwc(torch.stack(views))


differentiate("crop_flip", crop_flip, {"x": random(4, 5, 6, 3)})

# Pooling and resampling.
images = random(2, 7, 6, 5)
differentiate("global_avg_pool", lambda x: x.mean(dim=(1, 2)), {"x": images})
for kernel, stride, padding in ((2, 2, 0), (3, 2, 1), (3, 1, 1), (2, 3, 1)):
    differentiate(
        f"max_pool2d_{kernel}_{stride}_{padding}",
        lambda x: nhwc(F.max_pool2d(nchw(x), kernel, stride, padding)),
        {"x": images},
    )
for kernel, stride in ((2, 2), (3, 2), (2, 1)):
    differentiate(
        f"avg_pool2d_{kernel}_{stride}", lambda x: nhwc(F.avg_pool2d(nchw(x), kernel, stride)), {"x": images}
    )
for factor in (2, 3):
    differentiate(
        f"upsample_nearest_{factor}",
        lambda x: nhwc(F.interpolate(nchw(x), scale_factor=factor, mode="nearest")),
        {"x": random(2, 3, 4, 5)},
    )
differentiate("subsample_pad", lambda x: F.pad(x[:, ::2, ::2, :], (3, 3)), {"x": images})

# Losses.
logits, teacher = random(6, 7) * 3, random(6, 7) * 3
logits, teacher = (t.to(torch.float32).to(torch.float64) for t in (logits, teacher))
targets = torch.tensor([0, 6, 3, 3, 1, 5])
weights = torch.rand(6).to(torch.float32).to(torch.float64)
one = torch.tensor(0.7).to(torch.float32).to(torch.float64)
cases = {
    "cross_entropy": lambda logits: F.cross_entropy(logits, targets),
    "cross_entropy_weighted": lambda logits: (weights * F.cross_entropy(logits, targets, reduction="none")).mean(),
    "cross_entropy_smoothed": lambda logits: F.cross_entropy(logits, targets, label_smoothing=0.1),
    "mean_softmax_negentropy": lambda logits: (logits.softmax(1).mean(0) * logits.softmax(1).mean(0).log()).sum(),
}
for case, f in cases.items():
    differentiate(case, f, {"logits": logits}, grad=one)
keep("cross_entropy", weights=weights)
for temperature in (1.0, 4.0):

    def divergence(target, logits):
        p, q = F.log_softmax(target / temperature, 1), F.log_softmax(logits / temperature, 1)
        return (weights * F.kl_div(q, p, reduction="none", log_target=True).sum(1)).mean()

    differentiate(f"kl_divergence_{temperature:.0f}", divergence, {"target": teacher, "logits": logits}, grad=one)
differentiate("l2_distance", lambda x: torch.linalg.vector_norm(x - gamma), {"x": beta}, grad=one, target=gamma)
keep("softmax", logits=logits, y=logits.softmax(1))

# Optimisers: three steps, gradients 1, 2 and 3, in float32 as they run.
torch.set_default_dtype(torch.float32)
start = torch.randn(5, 3)
gradients = [torch.randn(5, 3) for _ in range(3)]
keep("optim", start=start, **{f"grad_{step}": g for step, g in enumerate(gradients, 1)})
optimisers = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd_momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.05),
    "sgd_nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.05, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.5, 0.999)),
    "adam_decay": lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.9, 0.99), eps=1e-3, weight_decay=0.05),
}
for case, make in optimisers.items():
    parameter = start.clone().requires_grad_()
    optimiser = make([parameter])
    for step, gradient in enumerate(gradients, 1):
        parameter.grad = gradient.clone()
        optimiser.step()
        keep("optim", **{f"{case}_{step}": parameter})

save_file(dict(sorted(golden.items())), pathlib.Path(__file__).with_suffix(".safetensors"))
