"""Networks of torchvision and timm for `make test-zoo`: exported with random weights as `.pt2` and `.onnx` into a folder, with an
input, the outputs, the gradient of the outputs' mean square with respect to the input, and the mean and the biased variance at the
input of each batch normalization. What is in the folder already stays.

`zoo.py FOLDER [NAME ...]`; a network is `tv:NAME` (torchvision), `seg:NAME` (segmentation of torchvision) or `timm:NAME`.
"""

import logging
import pathlib
import sys
import warnings

import timm
import torch
import torchvision
from safetensors.torch import save_file

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
torch.set_num_threads(1)

NETWORKS = """
tv:resnet18 tv:resnet50 tv:resnext50_32x4d tv:wide_resnet50_2 tv:vgg11_bn tv:vgg16_bn tv:mobilenet_v2 tv:mobilenet_v3_small
tv:mobilenet_v3_large tv:efficientnet_b0 tv:efficientnet_v2_s tv:regnet_y_400mf tv:regnet_x_400mf tv:densenet121
tv:shufflenet_v2_x1_0 tv:squeezenet1_1 tv:inception_v3 tv:googlenet tv:mnasnet1_0 seg:deeplabv3_mobilenet_v3_large
seg:lraspp_mobilenet_v3_large seg:fcn_resnet50 timm:resnet50 timm:resnet26d timm:mobilenetv3_small_100 timm:efficientnet_b0
timm:tf_efficientnet_lite0 timm:tf_efficientnet_b0 timm:mobilenetv4_conv_small timm:ghostnet_100 timm:fbnetc_100 timm:mixnet_s
timm:hardcorenas_a timm:repvgg_a0 timm:dla34 timm:hrnet_w18_small timm:selecsls42b timm:vovnet39a timm:ese_vovnet19b_dw
timm:cspresnet50 timm:darknet53 timm:xception41 timm:lcnet_050 timm:regnety_002 timm:resnest14d timm:seresnet50 timm:skresnet18
timm:res2net50_26w_4s timm:dpn48b timm:nf_regnet_b0 timm:rexnet_100 timm:tinynet_a timm:mobileone_s0
""".split()


class Logits(torch.nn.Module):
    """The logits of a segmentation network alone."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)["out"]


def build(name):
    kind, name = name.split(":")
    if kind == "timm":
        return timm.create_model(name, pretrained=False)
    if kind == "seg":
        return Logits(torchvision.models.get_model(name, weights=None, weights_backbone=None, aux_loss=None))
    return torchvision.models.get_model(name, weights=None)


def export(name, folder):
    file = folder / name.replace(":", "-")
    if file.with_suffix(".safetensors").exists():
        return "is there"
    torch.manual_seed(1)
    net = build(name).eval()
    norms = [module for module in net.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
        if norm.affine:
            norm.weight.data.uniform_(0.5, 1.5)
            norm.bias.data.normal_(0, 0.1)
    size = 299 if "inception" in name else 224 if "vgg" in name else 128
    example = torch.randn(2, 3, size, size)
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(net, (example,), dynamic_shapes=batch)
    torch.export.save(program, file.with_suffix(".pt2"))
    path = file.with_suffix(".onnx")
    torch.onnx.export(net, (example,), path, external_data=False, optimize=False, dynamic_shapes=batch, verbose=False)
    moments = []

    def hook(_, inputs):
        axes = [0, *range(2, inputs[0].ndim)]
        moments.append(torch.stack([inputs[0].mean(axes), inputs[0].var(axes, unbiased=False)]))

    for norm in norms:
        norm.register_forward_pre_hook(hook)
    x = torch.randn(3, 3, size, size, requires_grad=True)
    y = net(x)
    (gradient,) = torch.autograd.grad(y.square().mean(), x)
    values = {"x": x, "y": y, "g": gradient} | {f"moment.{index:03}": moment for index, moment in enumerate(moments)}
    save_file({name: value.detach().contiguous() for name, value in values.items()}, file.with_suffix(".safetensors"))
    return "exported"


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    target = pathlib.Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for network in sys.argv[2:] or NETWORKS:
        try:
            print(network, export(network, target), flush=True)
        except Exception as error:  # what PyTorch cannot export is not this test's business
            print(network, f"cannot be exported: {type(error).__name__} {str(error)[:100]!r}", flush=True)
