"""What `make test-exported` checks: exported networks in ONNX Runtime and in PyTorch.

`check_exported.py FOLDER` looks at every folder below FOLDER that has a `model.onnx`. The ONNX file has to pass ONNX's full check. It and
`model.py` have to give the logits `y1` of one image `x1` and `y3` of three images `x3` in `io.safetensors`, within 1e-4 of the largest; where there
are no logits, each other's. `io.safetensors` may have the images of an ONNX file with its own normalization, `raw1` and `raw3`.
"""

import importlib.util
import pathlib
import sys

import numpy
import onnx
import onnxruntime
import torch
from safetensors.numpy import load_file

TOLERANCE = 1e-4
torch.set_num_threads(1)


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options)


def module(path):
    """`model.py` as a module; it is run in its own folder's name alone."""
    spec = importlib.util.spec_from_file_location("model", path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def difference(found, wanted):
    assert found.shape == wanted.shape, f"{found.shape} instead of {wanted.shape}"
    assert numpy.isfinite(found).all(), "not finite"
    return float(numpy.abs(found - wanted).max() / numpy.abs(wanted).max())


def check(folder):
    onnx.checker.check_model(onnx.load(folder / "model.onnx"), full_check=True)
    runtime, python = session(folder / "model.onnx"), module(folder / "model.py")
    network, io = python.load(), load_file(folder / "io.safetensors")
    errors = {"onnxruntime": 0.0, "model.py": 0.0}
    for count in (1, 3):
        images = io[f"x{count}"]
        (ran,) = runtime.run(["logits"], {"images": io.get(f"raw{count}", images)})
        with torch.no_grad():
            computed = network(torch.from_numpy(images)).numpy()
        if f"raw{count}" in io:
            normal = python.normalize(torch.from_numpy(io[f"raw{count}"])).numpy()
            errors["normalize"] = max(errors.get("normalize", 0.0), difference(normal, images))
        wanted = io.get(f"y{count}", computed)
        errors["onnxruntime"] = max(errors["onnxruntime"], difference(ran, wanted))
        errors["model.py"] = max(errors["model.py"], difference(computed, wanted))
    # A user's own optimizer needs the parameters, and training mode the statistics.
    network.train()(torch.from_numpy(io["x3"])).square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters()), "a parameter has no gradient"
    assert max(errors.values()) < TOLERANCE, errors
    return ", ".join(f"{name} {error:.1e}" for name, error in errors.items())


def main(folder):
    folders = sorted(path.parent for path in pathlib.Path(folder).rglob("model.onnx"))
    wrong = []
    for path in folders:
        try:
            print(f"{path.name}: {check(path)}", flush=True)
        except Exception as error:  # all of them are shown
            wrong.append(path.name)
            print(f"{path.name}: WRONG {type(error).__name__}: {error}", flush=True)
    print(f"{len(folders) - len(wrong)} of {len(folders)} networks are right; PyTorch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}")
    sys.exit(bool(wrong) or not folders)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
