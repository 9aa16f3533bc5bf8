"""How much of a network's activations differs from image to image: the shares of docs/lab/cifar100.md.

    ssdkd export CARD --out model
    python tools/between_images.py model IMAGES --size 128

IMAGES is a binary file of CIFAR-10 or CIFAR-100, or a folder of JPEG or PNG files, which are scaled and cut to the size. The first 1,000
images count. For each batch norm it prints the positions P of its input, the variance of the images' means as a share of the running
variance, and 1/sqrt(P). It needs PyTorch, numpy and, for a folder, pillow.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch

COUNT = 1000


def cifar(path: Path) -> torch.Tensor:
    raw = np.fromfile(path, np.uint8)
    width = next((width for width in (3073, 3074) if len(raw) > 0 and len(raw) % width == 0), None)
    if width is None:
        sys.exit(f"{path} is no binary file of CIFAR-10 or CIFAR-100\nhint: give test_batch.bin, test.bin or a folder of images")
    pixels = raw.reshape(-1, width)[:COUNT, width - 3072 :]
    return torch.tensor(pixels.reshape(-1, 3, 32, 32)).float() / 255


def folder(path: Path, size: int) -> torch.Tensor:
    from PIL import Image

    images = []
    for file in sorted(f for f in path.rglob("*") if f.suffix.lower() in {".jpeg", ".jpg", ".png"})[:COUNT]:
        image = Image.open(file).convert("RGB")
        scale = 1.14 * size / min(image.size)
        image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC)
        left, top = ((side - size) // 2 for side in image.size)
        cut = np.array(image.crop((left, top, left + size, top + size)))
        images.append(torch.tensor(cut).permute(2, 0, 1).float() / 255)
    if not images:
        sys.exit(f"{path} has no JPEG or PNG files\nhint: give the folder that has them")
    return torch.stack(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", metavar="MODEL", type=Path, help="a folder of `ssdkd export`")
    parser.add_argument("images", metavar="IMAGES", type=Path, help="a binary file of CIFAR, or a folder of images")
    parser.add_argument("--size", type=int, help="pixels a side; needed for a folder")
    arguments = parser.parse_args()
    export, images = arguments.export, arguments.images
    if not (export / "model.py").is_file():
        sys.exit(f"{export} has no model.py\nhint: `ssdkd export CARD --out {export}` writes it")
    if not images.exists():
        sys.exit(f"{images} does not exist\nhint: give a binary file of CIFAR, or a folder of images")
    if images.is_dir() and arguments.size is None:
        sys.exit(f"{images} is a folder, and the size of its images is not given\nhint: add --size 224, or what the network takes")
    spec = importlib.util.spec_from_file_location("model", export / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.load().eval()
    x = folder(images, arguments.size) if images.is_dir() else cifar(images)

    means: dict[torch.nn.Module, list[torch.Tensor]] = {}
    positions: dict[torch.nn.Module, int] = {}

    def look(norm: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        means.setdefault(norm, []).append(inputs[0].mean((2, 3)))
        positions[norm] = inputs[0][0, 0].numel()

    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.register_forward_pre_hook(look)
    with torch.no_grad():
        for start in range(0, len(x), 50):
            model(module.normalize(x[start : start + 50]))
    print(f"{len(x)} images\nlayer      P   share  1/sqrt(P)")
    for layer, (norm, parts) in enumerate(means.items()):
        unit = norm.running_var.clamp(min=0.01 * norm.running_var.mean().item())
        share = (torch.cat(parts).var(0, unbiased=False) / unit).mean().item()
        print(f"{layer:5} {positions[norm]:6} {share:7.3f} {positions[norm] ** -0.5:10.3f}")


if __name__ == "__main__":
    main()
