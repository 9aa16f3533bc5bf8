"""Golden images of resizing and cropping by Pillow and torchvision, for `ssdkd-data`.

    python tests/golden/resize.py

Writes tests/golden/resize/source.png, a colored image of 37×53 with hard edges and noise, and one PNG for each case. A case is named
by its filter, its size before the crop and its crop: bicubic-short24-20x18.png. What torchvision does to the size, `ssdkd-data` does too.
"""

from pathlib import Path

import numpy
from PIL import Image
from torchvision.transforms import functional

FILTERS = dict(nearest="NEAREST", bilinear="BILINEAR", bicubic="BICUBIC", lanczos="LANCZOS")
# Filter, size before the crop (a short side, height and width, or the image's), crop.
CASES = [
    *((name, 24, (20, 18)) for name in FILTERS),
    *((name, (70, 61), (70, 61)) for name in FILTERS),
    ("bilinear", (9, 90), (9, 90)),
    ("bicubic", (37, 16), (37, 16)),
    ("lanczos", 13, (24, 40)),
    ("bilinear", None, (24, 40)),
]


def source():
    generator = numpy.random.default_rng(7)
    y, x = numpy.mgrid[:37, :53]
    pixels = generator.integers(0, 256, (37, 53, 3))
    pixels[:, :20] = numpy.where((x + y) // 5 % 2, 255, 0)[:, :20, None]
    pixels[20:, 20:] = numpy.stack([5 * x - 10, 7 * y - 4, 255 - 4 * x], -1).clip(0, 255)[20:, 20:]
    return Image.fromarray(pixels.astype(numpy.uint8))


def main():
    folder = Path(__file__).with_name("resize")
    folder.mkdir(exist_ok=True)
    image = source()
    image.save(folder / "source.png")
    for name, size, (height, width) in CASES:
        mode = functional.InterpolationMode[FILTERS[name]]
        resized = image if size is None else functional.resize(image, size, mode)
        cropped = functional.center_crop(resized, [height, width])
        label = "keep" if size is None else f"short{size}" if isinstance(size, int) else "exact{}x{}".format(*size)
        cropped.save(folder / f"{name}-{label}-{height}x{width}.png")
    print(f"{folder}: {len(CASES)} cases")


if __name__ == "__main__":
    main()
