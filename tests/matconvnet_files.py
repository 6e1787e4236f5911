"""Writes MatConvNet checkpoints of any official model, as MAT v5 (scipy) and v7.3 (HDF5), for the converter's tests."""

import re
from pathlib import Path

import h5py
import numpy as np
import scipy.io

from compare import GOLDEN

Arrays = dict[str, np.ndarray]


def official_shapes(model: str) -> dict[str, tuple[int, ...]]:
    """Parameter names and shapes, MATLAB's order, of one of the six tables."""
    text = (GOLDEN / "param_tables.md").read_text()
    table = re.search(rf"^## {re.escape(model)}: .*?(?=^## |\Z)", text, re.M | re.S)
    assert table, model
    rows = re.findall(r"^\| (\w+) \| (\d+x[\dx]+) \|", table[0], re.M)
    return {name: tuple(map(int, shape.split("x"))) for name, shape in rows}


def random_params(shapes: dict[str, tuple[int, ...]], num_classes: int = 10, seed: int = 0) -> Arrays:
    """Random float32 arrays, with fewer classes so that files stay small. Sigmas are positive.

    As in MATLAB, an array has at least two axes and no trailing ones of length 1.
    """
    draw = np.random.default_rng(seed)
    params = {}
    for name, shape in shapes.items():
        if name == "prediction_f":
            shape = (*shape[:3], num_classes)
        if name == "prediction_b":
            shape = (num_classes, *shape[1:])
        while len(shape) > 2 and shape[-1] == 1:
            shape = shape[:-1]
        value = draw.standard_normal(shape).astype(np.float32) * 0.1
        if name.endswith("_m"):
            value[:, 1] = np.abs(value[:, 1]) + 0.5
        params[name] = value
    return params


LAYERS = (
    ("Fusion_out", {"topk": 8.0, "CM_num": 16.0}),
    ("CM_1_Cov_Sqrtm", {"iterNum": 3.0}),
)


def write_v5(path: Path, params: Arrays, mean=(120.0, 110.0, 100.0), layers=LAYERS) -> Path:
    rows = np.empty((1, len(params)), [("name", object), ("value", object), ("learningRate", object)])
    for i, (name, value) in enumerate(params.items()):
        rows[0, i] = (name, value, 1.0)
    blocks = np.empty((1, len(layers)), [("name", object), ("block", object)])
    for i, (name, block) in enumerate(layers):
        blocks[0, i] = (name, block)
    meta = {"normalization": {"averageImage": np.array(mean).reshape(1, 1, -1), "imageSize": np.array([64.0, 64, 3])}}
    net = {"params": rows, "layers": blocks, "meta": meta}
    scipy.io.savemat(path, {"net": net, "state": {"momentum": np.zeros(3)}}, do_compression=False)
    return path


class V73:
    """MATLAB's conventions on HDF5: axes reversed, text as uint16, struct arrays as a table of references per field."""

    def __init__(self, path: Path) -> None:
        self.file = h5py.File(path, "w", userblock_size=512)
        self.refs = self.file.create_group("#refs#")

    def put(self, group: h5py.Group, name: str, value: object) -> h5py.Dataset | h5py.Group:
        if isinstance(value, dict):
            node = group.create_group(name)
            node.attrs["MATLAB_class"] = np.bytes_("struct")
            for key, item in value.items():
                self.put(node, key, item)
            return node
        if isinstance(value, list):  # struct array
            node = group.create_group(name)
            node.attrs["MATLAB_class"] = np.bytes_("struct")
            for key in value[0]:
                references = [[self.put(self.refs, f"r{len(self.refs)}", row[key]).ref] for row in value]
                node.create_dataset(key, data=np.array(references, h5py.ref_dtype), dtype=h5py.ref_dtype)
            return node
        if isinstance(value, str):
            node = group.create_dataset(name, data=np.array([[ord(c)] for c in value], np.uint16))
            node.attrs["MATLAB_class"] = np.bytes_("char")
            return node
        array = np.atleast_2d(np.asarray(value))
        node = group.create_dataset(name, data=array.T)
        node.attrs["MATLAB_class"] = np.bytes_("single" if array.dtype == np.float32 else "double")
        return node


def write_v73(path: Path, params: Arrays, mean=(120.0, 110.0, 100.0), layers=LAYERS) -> Path:
    out = V73(path)
    meta = {"normalization": {"averageImage": np.array(mean).reshape(1, 1, -1), "imageSize": np.array([64.0, 64, 3])}}
    net = {
        "params": [{"name": name, "value": value, "learningRate": 1.0} for name, value in params.items()],
        "layers": [{"name": name, "block": block} for name, block in layers],
        "meta": meta,
    }
    out.put(out.file, "net", net)
    out.file.close()
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124, b" ") + b"\x00\x02IM")
    return path
