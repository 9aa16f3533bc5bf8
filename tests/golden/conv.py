"""Golden values of convolutions and linear layers: outputs and gradients by PyTorch, for `ssdkd-ops`.

    python tests/golden/conv.py

Writes tests/golden/conv.safetensors. Activations are stored channels-last (B, H, W, C), weights as PyTorch has them. The
settings of a case are in its name: conv/<name>/s<stride>p<padding>d<dilation>g<groups>/<tensor>.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

# name, batch, height, width, in, out, kernel height and width, stride, padding, dilation, groups
CASES = [
    ("first_layer", 2, 8, 8, 3, 16, 3, 3, 1, 1, 1, 1),
    ("middle_layer", 2, 6, 6, 16, 16, 3, 3, 1, 1, 1, 1),
    ("down_layer", 2, 8, 8, 16, 20, 3, 3, 2, 1, 1, 1),
    ("projection", 2, 7, 7, 12, 33, 1, 1, 2, 0, 1, 1),
    ("stem", 1, 12, 12, 3, 8, 7, 7, 2, 3, 1, 1),
    ("image_layer", 2, 6, 6, 16, 3, 3, 3, 1, 1, 1, 1),
    ("oblong", 2, 5, 9, 5, 7, 3, 2, 1, 2, 1, 1),
    ("dilated", 1, 9, 9, 6, 6, 3, 3, 1, 2, 2, 1),
    ("grouped", 2, 6, 6, 12, 18, 3, 3, 1, 1, 1, 3),
    ("depthwise", 2, 7, 7, 20, 20, 3, 3, 2, 1, 1, 20),
]


def main():
    generator = torch.Generator().manual_seed(7)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    tensors = {}
    for name, batch, height, width, inputs, outputs, kh, kw, stride, padding, dilation, groups in CASES:
        x = normal(batch, inputs, height, width).requires_grad_()
        weight = normal(outputs, inputs // groups, kh, kw).requires_grad_()
        bias = normal(outputs).requires_grad_()
        y = torch.nn.functional.conv2d(x, weight, bias, stride, padding, dilation, groups)
        gradient = normal(*y.shape)
        y.backward(gradient)
        prefix = f"conv/{name}/s{stride}p{padding}d{dilation}g{groups}"
        images = dict(x=x, y=y, gradient=gradient, x_gradient=x.grad)
        others = dict(weight=weight, bias=bias, weight_gradient=weight.grad, bias_gradient=bias.grad)
        for key, tensor in images.items():
            tensors[f"{prefix}/{key}"] = tensor.detach().permute(0, 2, 3, 1).contiguous()
        for key, tensor in others.items():
            tensors[f"{prefix}/{key}"] = tensor.detach().contiguous()

    x, weight, bias = (normal(*shape).requires_grad_() for shape in [(5, 30), (11, 30), (11,)])
    y = torch.nn.functional.linear(x, weight, bias)
    gradient = normal(5, 11)
    y.backward(gradient)
    linear = dict(x=x, weight=weight, bias=bias, y=y, gradient=gradient)
    linear |= dict(x_gradient=x.grad, weight_gradient=weight.grad, bias_gradient=bias.grad)
    tensors |= {f"linear/layer/-/{key}": tensor.detach().contiguous() for key, tensor in linear.items()}

    path = Path(__file__).with_name("conv.safetensors")
    save_file(tensors, path)
    print(f"{path}: {len(tensors)} tensors, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
