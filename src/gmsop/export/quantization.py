"""Turn an ONNX file into one that computes in 8 bits where that is enough: convolutions and linear layers."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmsop.errors import ConfigError

BATCH = 16


class _Images:
    """Gives onnxruntime batch after batch."""

    def __init__(self, name: str, inputs: NDArray[Any]) -> None:
        self.left = iter([{name: inputs[i : i + BATCH]} for i in range(0, len(inputs), BATCH)])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self.left, None)


def quantize_onnx(path: Path, inputs: NDArray[Any] | None) -> str:
    """Replace the file by one in int8.

    The covariance, its square root and the gate's own layers stay in float32: a root's iterations multiply matrices
    whose entries differ by orders of magnitude, and a rounded score may choose another component.

    Args:
        inputs: images by whose activations the ranges of convolutions and linear layers are set. None: of linear layers
            alone, at every call.

    Returns:
        In a few words what was done.

    Raises:
        ConfigError: nothing can be.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    entries = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
    with tempfile.TemporaryDirectory() as folder:
        prepared, made = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
        graph = onnx.load(prepared, load_external_data=False).graph
        gate = [node.name for node in graph.node if any(".gate." in name for name in node.input)]
        # What quantize_dynamic makes of a Gemm has another name.
        left: Any = {"nodes_to_exclude": [name + end for name in gate for end in ("", "_MatMul")]}
        if inputs is None:
            # A linear layer becomes a product with a constant; products of two computed matrices are left as they are.
            quantization.quantize_dynamic(str(prepared), str(made), op_types_to_quantize=["MatMul"], **left)
            done = "int8 (dynamic: the linear layers)"
        else:
            reader: Any = _Images(graph.input[0].name, np.ascontiguousarray(inputs))
            quantization.quantize_static(
                str(prepared), str(made), reader, op_types_to_quantize=["Conv", "Gemm"], per_channel=True, **left
            )
            done = f"int8 (static: convolutions and linear layers, {len(inputs)} images)"
        model = onnx.load(made)
        if not any("Quantize" in node.op_type for node in model.graph.node):
            raise ConfigError("quantize int8: nothing in this model can be computed in 8 bits")
        known = {entry.key for entry in model.metadata_props}
        for key, value in entries.items():
            if key not in known:
                model.metadata_props.add(key=key, value=value)
        onnx.save(model, str(path))
    return done
