"""Golden values of the method, from PyTorch: `method.safetensors`, read by the tests of ssdkd-method.

Every formula is written down once more here, in PyTorch's words and with its automatic gradients, from the same
sources as the Rust code. Inputs are either stored with the results or made by `formula`, an integer hash that the tests
repeat, so that the networks need no stored weights.
"""

import pathlib

import torch
import torch.nn.functional as F
from formula import fill, formula
from networks import Generator, ResNet
from safetensors.torch import save_file

torch.set_num_threads(1)
golden = {}


def nhwc(x):
    return x.detach().permute(0, 2, 3, 1).contiguous()


def keep(name, value):
    golden[name] = torch.as_tensor(value, dtype=torch.float32).detach().contiguous().clone()


# --- batch-norm statistics, without and with momentum ---------------------------------------------------------------

inputs = [formula(1, (3, 4, 4, 2)), formula(2, (3, 2, 2, 5), 2.0)]  # (B, H, W, C) at two layers
running = [(formula(3, (2,)), formula(4, (2,)) + 1.5), (formula(5, (5,)), formula(6, (5,)) + 1.5)]


def statistics(x):
    return x.mean((0, 1, 2)), x.var((0, 1, 2), unbiased=False)


def rms(x):
    return x.pow(2).mean().sqrt()


def bn_loss(layers, averages, momentum, relative=False):
    loss = 0.0
    for i, x in enumerate(layers):
        mean, variance = statistics(x)
        if averages is not None:
            mean = (1 - momentum) * mean + momentum * averages[i][0]
            variance = (1 - momentum) * variance + momentum * averages[i][1]
        if relative:
            alive = running[i][1].clone()
            alive[0] *= 1e-5  # a dead channel
            unit = alive.maximum(0.01 * alive.mean())
            term = rms((mean - running[i][0]) / unit.sqrt()) + rms((variance - alive) / unit)
            loss = loss + term / len(layers)
        else:
            loss = loss + torch.norm(mean - running[i][0]) + torch.norm(variance - running[i][1])
    return loss


for name, relative in [("bn", False), ("bn.relative", True)]:
    first = [x.clone().requires_grad_() for x in inputs]
    loss = bn_loss(first, None, 0.9, relative)
    loss.backward()
    keep(f"{name}.first.loss", loss)
    for i, x in enumerate(first):
        keep(f"{name}.first.grad.{i}", x.grad)

    averages = [tuple(s.detach() for s in statistics(x)) for x in inputs]
    second = [(x * 0.5 + 0.25).requires_grad_() for x in inputs]
    loss = bn_loss(second, averages, 0.9, relative)
    loss.backward()
    keep(f"{name}.second.loss", loss)
    for i, x in enumerate(second):
        keep(f"{name}.second.grad.{i}", x.grad)
    averages = [
        tuple(0.9 * a + 0.1 * s.detach() for a, s in zip(average, statistics(x)))
        for average, x in zip(averages, second)
    ]
    keep(f"{name}.third.loss", bn_loss(inputs, averages, 0.9, relative))

# --- φ, task, balance and adversarial terms over logits ---------------------------------------------------------------

# In double precision from here on, so that only the other side rounds.
counts = torch.tensor([5.0, 0.0, 12.0, 3.0]).double()
teacher_logits = formula(10, (6, 4), 3.0).double()
student_logits = formula(11, (6, 4), 3.0).double()
targets = torch.tensor([0, 3, 2, 2, 1, 0])


def phi(t, form, gamma):
    p = t.softmax(1)
    n = counts[p.argmax(1)]
    diversity = {
        "share": 1 - n / counts.sum(),
        "ratio": 1 / (1 + n * len(counts) / counts.sum()),
        "off": torch.ones_like(n),
    }[form]
    return diversity * (1 - p.max(1).values) ** gamma


for form, gamma in [("share", 1.0), ("ratio", 2.0), ("off", 0.5)]:
    keep(f"phi.{form}", phi(teacher_logits, form, gamma))

for name, y in [("targets", targets), ("predicted", teacher_logits.argmax(1))]:
    t = teacher_logits.clone().requires_grad_()
    loss = (phi(t, "share", 1.0).detach() * F.cross_entropy(t, y, reduction="none")).mean()
    loss.backward()
    keep(f"task.{name}.loss", loss)
    keep(f"task.{name}.grad", t.grad)


def kl(t, s, temperature=1.0):
    return F.kl_div((s / temperature).log_softmax(1), (t / temperature).softmax(1), reduction="none").sum(1)


def adversarial(t, s, masked):
    mask = (s.argmax(1) == t.argmax(1)).float() if masked else torch.ones(len(t))
    return -(kl(t, s) * mask).mean()


for masked in [False, True]:
    t, s = teacher_logits.clone().requires_grad_(), student_logits.clone().requires_grad_()
    loss = adversarial(t, s, masked)
    loss.backward()
    name = "masked" if masked else "plain"
    keep(f"adversarial.{name}.loss", loss)
    keep(f"adversarial.{name}.grad.teacher", t.grad)
    keep(f"adversarial.{name}.grad.student", s.grad)

# --- the student's loss at T = 20 with importance weights -------------------------------------------------------------

weights = (formula(12, (6,), 0.5) + 0.5).double()
s = student_logits.clone().requires_grad_()
loss = (weights * kl(teacher_logits, s, 20.0)).mean() * 20.0**2
loss.backward()
keep("student.loss", loss)
keep("student.grad", s.grad)
keep("student.disagreement", kl(teacher_logits, student_logits))

# --- networks with formula weights: ResNet-8 of the CIFAR family, the generator of Fast-Datafree ------------------------

MEAN, STD = torch.tensor([0.4, 0.5, 0.6]).double(), torch.tensor([0.2, 0.25, 0.3]).double()


def normalise(x):  # (B, C, H, W)
    return (x - MEAN[:, None, None]) / STD[:, None, None]


class ResNet8(ResNet):
    """The logits of images in [0, 1]."""

    def __init__(self, classes):
        super().__init__([16, 32, 64], [1, 1, 1], "A", "linear", classes)

    def forward(self, x):
        return super().forward(normalise(x))[1]


with torch.no_grad():
    teacher, other = fill(ResNet8(4), 1).eval(), fill(ResNet8(4), 2).eval()
for parameter in [*teacher.parameters(), *other.parameters()]:
    parameter.requires_grad_(False)

taps = []
for module in teacher.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
        module.register_forward_hook(lambda m, i, o: taps.append((m, i[0])))

# --- two meta batches of three inner steps each, with the adversary and φ ------------------------------------------------

with torch.no_grad():
    meta = fill(Generator(8, 4, 8, 3), 3).train()
LR_G, LR_Z, STEPS = 2e-3, 1e-2, 3
meta_optimizer = torch.optim.Adam(meta.parameters(), LR_G * STEPS, betas=(0.5, 0.999))
averages = None
for batch in range(2):
    z = formula(20 + batch, (5, 8), 2.0).double().requires_grad_()
    y = torch.tensor([0, 1, 2, 3, batch])
    clone = Generator(8, 4, 8, 3).double().train()
    clone.load_state_dict(meta.state_dict())
    inner = torch.optim.Adam([{"params": clone.parameters()}, {"params": [z], "lr": LR_Z}], LR_G, betas=(0.5, 0.999))
    meta_optimizer.zero_grad()
    for p in meta.parameters():
        p.grad = torch.zeros_like(p)
    best = None
    for step in range(STEPS):
        x = clone(z)
        taps.clear()
        t, s = teacher(x), other(x)
        now = [(i.mean((0, 2, 3)), i.var((0, 2, 3), unbiased=False)) for _, i in taps]
        loss_bn = 0.0
        for i, (module, _) in enumerate(taps):
            mean, variance = now[i]
            if averages is not None:
                mean, variance = (0.1 * a + 0.9 * b for a, b in zip(now[i], averages[i]))
            loss_bn = loss_bn + torch.norm(mean - module.running_mean) + torch.norm(variance - module.running_var)
        loss_oh = (phi(t, "share", 1.0).detach() * F.cross_entropy(t, y, reduction="none")).mean()
        loss_adv = adversarial(t, s, True)
        loss = 10.0 * loss_bn + 0.5 * loss_oh + 1.1 * loss_adv
        keep(f"meta.{batch}.losses.{step}", torch.stack([loss_bn, loss_oh, loss_adv, loss]))
        if best is None or loss.item() < best[0]:
            best = (loss.item(), x.detach().clone())
        inner.zero_grad()
        loss.backward()
        for p, q in zip(meta.parameters(), clone.parameters()):
            p.grad += q.grad
        inner.step()
    averages = [tuple(a.detach() for a in now[i]) if averages is None else
                tuple(0.9 * b + 0.1 * a.detach() for a, b in zip(now[i], averages[i])) for i in range(len(now))]
    meta_optimizer.step()
    keep(f"meta.{batch}.images", nhwc(best[1]))
for name, p in meta.named_parameters():
    keep(f"meta.generator.{name}", p)

# --- three steps of the persistent generator, and three of one that is told the classes ------------------------------------

for kind, targets in [("persistent", None), ("conditional", torch.tensor([2, 0, 3, 3, 1]))]:
    with torch.no_grad():
        one = fill(Generator(8 if targets is None else 8 + 4, 4, 8, 3), 3).train()
    optimizer = torch.optim.Adam(one.parameters(), 1e-3, betas=(0.5, 0.999))
    for step in range(3):
        z = formula(30 + step, (5, 8), 2.0).double()
        x = one(z if targets is None else torch.cat([z, 1.5 * F.one_hot(targets, 4)], 1))
        taps.clear()
        t, s = teacher(x), other(x)
        loss_bn = sum(
            torch.norm(i.mean((0, 2, 3)) - m.running_mean) + torch.norm(i.var((0, 2, 3), unbiased=False) - m.running_var)
            for m, i in taps
        )
        loss_oh = F.cross_entropy(t, t.argmax(1) if targets is None else targets)
        mean = t.softmax(1).mean(0)
        loss_bal = (mean * mean.log()).sum()
        loss_adv = adversarial(t, s, False)
        loss = 1.0 * loss_bn + 0.5 * loss_oh + 10.0 * loss_bal + 1.0 * loss_adv
        keep(f"{kind}.losses.{step}", torch.stack([loss_bn, loss_oh, loss_bal, loss_adv, loss]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    keep(f"{kind}.images", nhwc(x))
    for name, p in one.named_parameters():
        keep(f"{kind}.generator.{name}", p)

# --- two steps of the student -----------------------------------------------------------------------------------------------

student = other.train()
for parameter in student.parameters():
    parameter.requires_grad_(True)
sgd = torch.optim.SGD(student.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
for step in range(2):
    x = (formula(40 + step, (6, 8, 8, 3), 0.5) + 0.5).double().permute(0, 3, 1, 2)
    t, s = teacher(x), student(x)
    loss = (weights * kl(t, s, 4.0)).mean() * 4.0**2
    sgd.zero_grad()
    loss.backward()
    norm = torch.sqrt(sum((p.grad**2).sum() for p in student.parameters()))
    keep(f"distil.{step}", torch.stack([loss, norm, (t.argmax(1) == s.argmax(1)).double().mean()]))
    keep(f"distil.{step}.disagreement", kl(t, s))
    sgd.step()
for name in ["conv1.weight", "linear.weight", "bn1.running_mean", "bn1.running_var"]:
    keep(f"distil.student.{name}", student.state_dict()[name])

save_file(golden, pathlib.Path(__file__).with_suffix(".safetensors"))
