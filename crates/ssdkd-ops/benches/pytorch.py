"""GFLOP/s of PyTorch's convolutions at the shapes of `benches/kernels.rs`, in the same columns.

    python crates/ssdkd-ops/benches/pytorch.py [THREADS] [nchw|nhwc]
"""

import sys
import time

import torch

SHAPES = [
    (32, 3, 16, 3, 1, 128, 1),
    (32, 16, 16, 3, 1, 128, 1),
    (32, 32, 32, 3, 1, 128, 1),
    (32, 64, 64, 3, 1, 128, 1),
    (16, 64, 64, 3, 1, 128, 1),
    (8, 128, 128, 3, 1, 128, 1),
    (4, 512, 512, 3, 1, 128, 1),
    (32, 16, 32, 3, 2, 128, 1),
    (16, 32, 64, 3, 2, 128, 1),
    (8, 256, 512, 3, 2, 128, 1),
    (32, 16, 32, 1, 1, 128, 1),
    (32, 16, 32, 1, 2, 128, 1),
    (8, 256, 256, 1, 1, 128, 1),
    (32, 64, 3, 3, 1, 128, 1),
    (16, 128, 128, 3, 1, 128, 1),
    (8, 128, 128, 3, 1, 1, 1),
    # Of MobileNets and EfficientNets.
    (112, 32, 32, 3, 1, 8, 32),
    (56, 144, 144, 3, 1, 8, 144),
    (56, 144, 144, 3, 2, 8, 144),
    (28, 240, 240, 5, 2, 8, 240),
    (14, 672, 672, 5, 1, 8, 672),
    (7, 960, 960, 3, 1, 8, 960),
    (56, 24, 144, 1, 1, 8, 1),
    (56, 144, 24, 1, 1, 8, 1),
    (14, 96, 576, 1, 1, 8, 1),
    (14, 576, 96, 1, 1, 8, 1),
    (7, 320, 1280, 1, 1, 8, 1),
]


def best(run):
    run()
    shortest, end = float("inf"), time.perf_counter() + 0.3
    while time.perf_counter() < end:
        start = time.perf_counter()
        run()
        shortest = min(shortest, time.perf_counter() - start)
    return shortest


def main():
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else torch.get_num_threads())
    layout = torch.channels_last if len(sys.argv) > 2 and sys.argv[2] == "nhwc" else torch.contiguous_format
    print("map\tin\tout\tkernel\tstride\tbatch\tgroups\tforward\tinput_gradient\tweight_gradient")
    for size, channels, outputs, kernel, stride, batch, groups in SHAPES:
        x = torch.randn(batch, channels, size, size).to(memory_format=layout)
        w = torch.randn(outputs, channels // groups, kernel, kernel).to(memory_format=layout)
        settings = dict(stride=[stride] * 2, padding=[kernel // 2] * 2, dilation=[1, 1], groups=groups)
        y = torch.nn.functional.conv2d(x, w, **settings)
        g = torch.randn_like(y)

        def backward(mask):
            return torch.ops.aten.convolution_backward(
                g, x, w, None, settings["stride"], settings["padding"], [1, 1], False, [0, 0], groups, mask
            )

        with torch.no_grad():
            times = [
                best(lambda: torch.nn.functional.conv2d(x, w, **settings)),
                best(lambda: backward([True, False, False])),
                best(lambda: backward([False, True, False])),
            ]
        flop = 2 * y.numel() * (channels // groups) * kernel * kernel
        rates = "\t".join(f"{flop / t / 1e9:.0f}" for t in times)
        print(f"{size}\t{channels}\t{outputs}\t{kernel}\t{stride}\t{batch}\t{groups}\t{rates}", flush=True)


if __name__ == "__main__":
    main()
