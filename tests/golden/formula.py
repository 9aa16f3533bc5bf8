"""Numbers that the tests of ssdkd-nn make too (`crates/ssdkd-nn/tests/nn/formula.rs`), so that no weights are stored."""

import numpy as np
import torch
import torch.nn.functional as F


def formula(seed: int, shape, scale: float = 1.0) -> torch.Tensor:
    """Numbers in [-scale, scale) by an integer hash of (seed, position)."""
    h = np.arange(int(np.prod(shape)), dtype=np.uint32) * np.uint32(2654435761) + np.uint32(seed * 40503 + 12345)
    h ^= h >> np.uint32(15)
    h *= np.uint32(2246822519)
    h ^= h >> np.uint32(13)
    values = (h.astype(np.float64) / 2.0**32 - 0.5) * (2.0 * scale)
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def hash_of(text: str, salt: int = 0) -> int:
    """FNV-1a; `salt` gives other numbers."""
    seed = 0x811C9DC5 ^ salt
    for byte in text.encode():
        seed = ((seed ^ byte) * 0x01000193) & 0xFFFFFFFF
    return seed


@torch.no_grad()
def fill(net, salt: int = 0):
    """Formula weights in double precision: seeds from the names, so that the order of tensors does not matter."""
    for name, value in net.state_dict().items():
        if value.dtype != torch.float32:
            continue
        h = formula(hash_of(name, salt) % 100_003, tuple(value.shape))
        if name.endswith("running_mean"):
            h = 0.2 * h
        elif name.endswith("running_var"):
            h = 1.0 + 0.5 * h
        elif value.ndim > 1:
            h = h * float(np.float32(np.sqrt(6.0 / value[0].numel())))
        elif name.endswith("weight"):
            h = 1.0 + 0.2 * h
        else:
            h = 0.1 * h
        value.copy_(h)
    return net.double()


def summary(tensor):
    """The norm and the first four entries."""
    flat = F.pad(tensor.detach().flatten(), (0, 4))
    return torch.cat([flat.norm()[None], flat[:4]])
