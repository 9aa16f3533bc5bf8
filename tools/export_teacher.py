#!/usr/bin/env python3
"""Writes a network of torchvision, timm or Hugging Face as a .pt2 file for ssdkd, with its preprocessing and class names.

    export_teacher.py torchvision/resnet50 --pretrained
    export_teacher.py timm/efficientnet_lite0 --weights mine.pth --classes names.txt --out teacher.pt2
    export_teacher.py hf/microsoft/resnet-50 --pretrained

It needs PyTorch 2.9 or newer, and the library that NAME begins with. The file's entry `ssdkd.json` says what the network expects
of an image. Class names and source are those of the published weights: for your own weights, give --classes and --source.
"""

import argparse
import hashlib
import json
import math
import pathlib
import sys
import warnings

try:
    import torch
except ImportError:
    sys.exit("this needs PyTorch\nhint: pip install 'torch>=2.9', and timm, torchvision or transformers for their networks")

RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers


class Logits(torch.nn.Module):
    """The logits of a network that returns a dictionary; those of pixels at the size of the images."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        output = self.network(images)
        logits = output["out" if "out" in output else "logits"]
        if logits.ndim < 4 or logits.shape[2:] == images.shape[2:]:
            return logits
        # Hugging Face leaves this step to the processor.
        return torch.nn.functional.interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=False)


def fail(what, hint):
    sys.exit(f"export_teacher.py: {what}\nhint: {hint}")


def values(mean, std, interpolation, channels="rgb", span=(0.0, 1.0)):
    """A preprocessing without its resizing. `span`: the pixels' values before the mean is subtracted."""
    if interpolation not in RESAMPLE.values():
        print(f"note: bilinear interpolation takes the place of {interpolation}", file=sys.stderr)
        interpolation = "bilinear"
    return {"channels": channels, "range": list(span), "mean": list(mean), "std": list(std), "interpolation": interpolation}


def torchvision_network(name, options):
    from torchvision import models

    masks = name in models.list_models(module=models.segmentation)
    if not masks and name not in models.list_models(module=models):
        fail(f"torchvision has no network {name} for classes of images or pixels", "torchvision.models.list_models() lists the names")
    published = models.get_model_weights(name)
    # A file is published weights if its digest begins as their name ends: resnet18-f37072fd.pth.
    known = [w for w in published if options.digest and options.digest[:8] == pathlib.Path(w.url).stem.split("-")[-1]]
    weights = published.DEFAULT if options.pretrained else known[0] if known else None
    settings = {"num_classes": options.num_classes} if options.num_classes else {}
    if known and name in ("inception_v3", "googlenet"):
        settings["transform_input"] = True  # part of the network with published weights alone
    if masks and not options.pretrained:
        settings["weights_backbone"] = None
    network = models.get_model(name, weights=weights if options.pretrained else None, **settings)
    if options.pretrained:
        options.digest = digest(pathlib.Path(torch.hub.get_dir(), "checkpoints", pathlib.Path(weights.url).name))
    transform = (weights or published.DEFAULT).transforms()
    preprocessing = values(transform.mean, transform.std, transform.interpolation.value)
    preprocessing |= {"resize": {"short_side": transform.resize_size[0]}, "crop": list(getattr(transform, "crop_size", [])) * 2 or None}
    if masks:
        # A network in a file has one size: the whole image is brought to it.
        preprocessing["resize"] = {"exact": transform.resize_size * 2}
    return network, preprocessing, weights and weights.meta["categories"], weights and weights.url, None


def timm_network(name, options):
    import timm
    from timm.data import ImageNetInfo, infer_imagenet_subset, resolve_data_config

    if not timm.is_model(name.split(".")[0]):
        fail(f"timm has no network {name}", "timm.list_models() lists the names")
    settings = {"num_classes": options.num_classes} if options.num_classes else {}
    network = timm.create_model(name, pretrained=options.pretrained, **settings)
    config, card = resolve_data_config({}, model=network), network.pretrained_cfg
    preprocessing = values(config["mean"], config["std"], config["interpolation"])
    height, width = config["input_size"][1:]
    larger = [math.floor(side / config["crop_pct"]) for side in (height, width)]
    center = config["crop_mode"] == "center" and height == width
    preprocessing |= {"resize": {"short_side": larger[0]} if center else {"exact": larger}, "crop": [height, width]}
    if not options.pretrained:
        return network, preprocessing, None, None, None
    subset = infer_imagenet_subset(network)
    classes = card.get("label_names") or (subset and ImageNetInfo(subset).label_descriptions())
    source = card.get("hf_hub_id") or card.get("url")
    return network, preprocessing, classes and list(classes), source, card.get("license")


def hf_network(name, options):
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, AutoModelForSemanticSegmentation

    config = AutoConfig.from_pretrained(name)
    masks = any("Segmentation" in kind for kind in config.architectures or [])
    kind = AutoModelForSemanticSegmentation if masks else AutoModelForImageClassification
    if options.num_classes:
        config.num_labels = options.num_classes
    network = kind.from_pretrained(name) if options.pretrained else kind.from_config(config)
    said = AutoImageProcessor.from_pretrained(name).to_dict()
    low = -1.0 if said.get("rescale_offset") else 0.0
    span = [low, low + 255.0 * said["rescale_factor"]] if said.get("do_rescale") else [0.0, 255.0]
    mean, std = (said["image_mean"], said["image_std"]) if said.get("do_normalize") else ([0.0] * 3, [1.0] * 3)
    channels = "bgr" if said.get("do_flip_channel_order") else "rgb"
    preprocessing = values(mean, std, RESAMPLE.get(said.get("resample", 2)), channels, [round(value, 6) for value in span])
    size = dict(said.get("size") or {}) if said.get("do_resize", True) else {}
    crop = dict(said.get("crop_size") or {}) if said.get("do_center_crop") else {}
    crop = [crop["height"], crop["width"]] if crop else None
    short = size.get("shortest_edge")
    if short and said.get("crop_pct"):  # ConvNeXt's rule, which ResNets share
        resize, crop = ({"short_side": int(short / said["crop_pct"])}, [short] * 2) if short < 384 else ({"exact": [short] * 2}, None)
    else:
        exact = [short, short] if short else [size["height"], size["width"]] if "height" in size else None
        resize = {"short_side": short} if short and crop else exact and {"exact": exact}
    preprocessing |= {"resize": resize, "crop": crop}
    classes = [config.id2label[index] for index in range(config.num_labels)] if options.pretrained else None
    published = options.pretrained and not pathlib.Path(name).exists()
    return network, preprocessing, classes, f"https://huggingface.co/{name}" if published else None, None


LIBRARIES = {"torchvision": torchvision_network, "timm": timm_network, "hf": hf_network}


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def load(network, path):
    """Loads a state_dict by its names; or in its order, where shapes and the last part of the names agree one by one."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # whatever the file's bytes lead to
        fail(f"{path} holds no weights that can be read without running its code", "torch.save(model.state_dict(), FILE) writes such a file")
    for entry in ("state_dict_ema", "model_ema", "state_dict", "model_state", "model"):
        tensors = tensors[entry] if isinstance(tensors.get(entry), dict) else tensors
    shared = [prefix for prefix in ("module.", "_orig_mod.", "model.") if all(key.startswith(prefix) for key in tensors)]
    tensors = {key.removeprefix(shared[0] if shared else ""): t for key, t in tensors.items() if isinstance(t, torch.Tensor)}
    own = network.state_dict()
    described = [[(key, tensor.shape) for key, tensor in t.items() if "num_batches" not in key] for t in (own, tensors)]
    names = [{key for key, _ in pairs} for pairs in described]
    spare = {key for key in names[1] - names[0] if key.startswith(("aux", "AuxLogits"))}  # heads of the training alone
    if names[0] != names[1] - spare:
        roles = [[(key.rsplit(".", 1)[-1], shape) for key, shape in pairs] for pairs in described]
        if roles[0] != roles[1]:
            missing, more = sorted(names[0] - names[1])[:3], sorted(names[1] - names[0])[:3]
            fail(f"{path} holds another network: missing are {missing}, and not known are {more}, …", "another NAME, or --num-classes")
        print(f"note: the tensors of {path} have other names; they were taken in their order, and all shapes agree", file=sys.stderr)
        tensors = {mine: tensors[theirs] for (mine, _), (theirs, _) in zip(*described)}
    wrong = [key for key, shape in described[0] if tensors[key].shape != shape]
    if wrong:
        shapes = [tuple(t[wrong[0]].shape) for t in (tensors, own)]
        fail(f"{wrong[0]} has the shape {shapes[0]} in {path}, and {shapes[1]} in the network", "another NAME, or --num-classes")
    network.load_state_dict({key: tensors[key] for key in tensors if key in own}, strict=False)


def resized(preprocessing, size):
    """Returns the size of the network's images, after it has put another size into the preprocessing."""
    resize, crop = preprocessing["resize"], preprocessing["crop"]
    if not size and not resize and not crop:
        fail("the network does not say the size of its images", "add --size HxW")
    if size and crop and "short_side" in (resize or {}) and size[0] == size[1] and crop[0] == crop[1]:
        preprocessing["resize"] = {"short_side": round(resize["short_side"] * size[0] / crop[0])}
        preprocessing["crop"] = size
    elif size:
        preprocessing |= {"resize": {"exact": size}, "crop": None}
    return preprocessing["crop"] or preprocessing["resize"]["exact"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = lambda text: [float(number) for number in text.split(",")]
    parser.add_argument("name", metavar="NAME", help="torchvision/NAME, timm/NAME or hf/NAME (or hf/FOLDER)")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--weights", type=pathlib.Path, metavar="FILE", help="a state_dict or training checkpoint, .pth or .safetensors")
    weights.add_argument("--pretrained", action="store_true", help="the weights that the library publishes (needs the Internet)")
    weights.add_argument("--random", action="store_true", help="random weights, to find out whether ssdkd reads such a network")
    parser.add_argument("--size", metavar="HxW", help="the size of the network's images [default: that of its training]")
    parser.add_argument("--num-classes", type=int, metavar="N", help="the number of classes, if it is not that of the library")
    parser.add_argument("--classes", type=pathlib.Path, metavar="FILE", help="the class names, one a line, in the order of the outputs")
    parser.add_argument("--mean", type=numbers, metavar="M,M,M", help="the mean of your own training, for values from 0 to 1")
    parser.add_argument("--std", type=numbers, metavar="S,S,S", help="the standard deviation of your own training")
    parser.add_argument("--source", metavar="TEXT", help="where the weights are from")
    parser.add_argument("--license", metavar="TEXT", help="the license of the weights")
    parser.add_argument("--out", type=pathlib.Path, metavar="FILE", help="the file to write [default: NAME.pt2 in this folder]")
    return parser.parse_args()


def main():
    options = arguments()
    library, _, name = options.name.partition("/")
    if library not in LIBRARIES or not name:
        fail(f"{options.name} names no library", "torchvision/resnet50, timm/mobilenetv2_050 or hf/microsoft/resnet-50")
    if not (options.weights or options.pretrained or options.random):
        fail("nothing says which weights", "--weights FILE, --pretrained for those of the library, or --random")
    if options.pretrained and options.num_classes:
        fail("published weights have the number of classes that they have", "leave --num-classes out, or give --weights")
    if options.weights and not options.weights.is_file():
        fail(f"{options.weights} is not a file", "--weights takes a state_dict, as torch.save(model.state_dict(), FILE) writes it")
    try:
        size = options.size and [int(side) for side in options.size.split("x")]
        assert not size or (len(size) == 2 and min(size) > 0)
    except (ValueError, AssertionError):
        fail(f"--size {options.size} is no size", "height and width in pixels, such as 224x224")
    options.digest = digest(options.weights) if options.weights else None
    try:
        network, preprocessing, classes, source, license = LIBRARIES[library](name, options)
    except OSError as error:
        fail(f"{options.name} cannot be loaded: {error}", "--pretrained and hf/NAME need a network; --weights and hf/FOLDER take files")
    except ImportError as error:
        fail(f"{error}", f"pip install {'transformers' if library == 'hf' else library}")
    if options.weights:
        load(network, options.weights)
    if options.mean or options.std:
        preprocessing |= {"mean": options.mean or preprocessing["mean"], "std": options.std or preprocessing["std"]}
    if options.classes:
        classes = options.classes.read_text().splitlines()

    images = torch.zeros(2, 3, *resized(preprocessing, size))
    network.eval()
    with torch.no_grad():
        logits = network(images)
        if not isinstance(logits, torch.Tensor):
            network = Logits(network).eval()
            logits = network(images)
    if classes and len(classes) != logits.shape[1]:
        fail(f"there are {len(classes)} class names, and the network has {logits.shape[1]} outputs", "--classes with a line for each")
    known = {
        "version": 1,
        "preprocessing": preprocessing,
        "classes": classes,
        "task": "pixels" if logits.ndim == 4 else "images",
        "source": options.source or source,
        "license": options.license or license,
        "weights_digest": options.digest and f"sha256:{options.digest}",
    }
    program = torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    out = options.out or pathlib.Path(name.replace("/", "-") + ".pt2")
    torch.export.save(program, out, extra_files={"ssdkd.json": json.dumps(known)})
    print(f"{out}: images of {images.shape[2]}x{images.shape[3]}, {logits.shape[1]} classes of {known['task']}")
    print(json.dumps(preprocessing))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main()
