"""Export a model: trace it, write the file, run that as a program elsewhere would, and compare with the model."""

import copy
import importlib.util
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gmsop.data.preprocess import Preprocess
from gmsop.errors import ConfigError
from gmsop.export.agreement import Agreement, compare, pixels_of, require_agreement
from gmsop.export.description import description_of
from gmsop.export.quantization import quantize_onnx
from gmsop.export.registry import EXPORT_FORMS, ExportForm, Traced
from gmsop.models.classifier import PooledClassifier, plain_model
from gmsop.ops.mixture.component_conv import routing_when_exported
from gmsop.utils.files import writing
from gmsop.utils.text import first_line

ROUTINGS = ("sparse", "dense")


@dataclass(frozen=True)
class Exported:
    """Says what was written, and how it compares with the model."""

    path: Path
    made_of: str
    """Such as "opset 20"."""
    routing: str | None
    """How the gate's choice is computed in the file: "sparse" or "dense"; None without a gate."""
    input_shape: tuple[int | str, ...]
    """With a name where any number goes."""
    input_dtype: str
    agreement: Agreement


def export_model(
    model: PooledClassifier,
    path: str | Path,
    to: str = "onnx",
    *,
    with_preprocess: bool = False,
    dynamic_size: bool = False,
    opset: int | None = None,
    routing: str = "sparse",
    quantize: str | None = None,
    calibrate: str | Path | None = None,
    check: str | Path | None = None,
    check_images: int = 500,
    overwrite: bool = False,
    progress: bool = False,
) -> Exported:
    """Write a model as a file that runs without gmsop, after checking on images that it answers as the model does.

    The file takes batches of any size. Nothing of gmsop's is in it.

    Args:
        to: "onnx", "torch-export" or "aotinductor".
        with_preprocess: the file takes pixels (B, H, W, 3) uint8 and normalises them itself; otherwise normalised
            images (B, 3, H, W) float32. Resizing and cropping are left to who calls it; its description says how.
        dynamic_size: it takes any height and width that the backbone takes, not only the model's own.
        opset: ONNX's set of operators; None: 20.
        routing: of a gate. "sparse": the K chosen components are computed, with weights that are gathered for each
            image. "dense": all N are, and K are taken; more work, but in large products, and no copies of weights.
        quantize: "int8": convolutions and the classifier compute in 8 bits (ONNX alone); covariance, square root and
            gate stay in float32, for which 8 bits are too few.
        calibrate: images by whose activations the ranges of "int8" are set beforehand; None: at every call, of the
            linear layers alone.
        check: images to compare on; None: the bundled ones. With classes as the model's, errors are compared, too.
        check_images: how many of them, at most.

    Raises:
        ConfigError: what cannot be exported, or not so; packages that are missing; a destination that exists; or the
            file does not answer as the model does. No file is written then.
        WriteError: no space, no permission.
    """
    form = EXPORT_FORMS[to]
    path, model = Path(path), plain_model(model)
    _require_possible(model, form, path, routing, quantize, calibrate, opset, overwrite)
    model = copy.deepcopy(model).cpu().float().eval()
    how = Preprocess.of(model.pretrained_cfg)
    pixels = pixels_of(check, how, check_images, model.pretrained_cfg.get("label_names"), progress)
    description = description_of(model, with_preprocess, dynamic_size) | {"quantized": quantize}
    whole = _Whole(model, how, with_preprocess)
    two = pixels.images[[0, -1]]  # with one image, the size of the batch would be recorded as 1
    with routing_when_exported(routing):
        program = _trace(whole, two, dynamic_size)
    _require_no_own_operators(program)
    with writing(path) as temporary:
        made_of = form.write(Traced(program, description, opset), temporary)
        exported = form.run(temporary)
        agreement = compare(_eager(whole), exported, whole.inputs, pixels, progress)
        require_agreement(agreement, path, model.gate is not None)
        if quantize is not None:
            calibration = pixels_of(calibrate, how, 200, None, progress, train=True) if calibrate is not None else None
            inputs = None if calibration is None else whole.inputs(calibration.images)
            made_of += f", {quantize_onnx(temporary, inputs)}"
            agreement = compare(_eager(whole), form.run(temporary), whole.inputs, pixels, progress)
    shape = tuple(description["input"]["shape"])
    return Exported(
        path, made_of, None if model.gate is None else routing, shape, description["input"]["dtype"], agreement
    )


def verify(
    model: PooledClassifier,
    path: str | Path,
    check: str | Path | None = None,
    check_images: int = 500,
    progress: bool = False,
) -> Exported:
    """Compare a file that was exported before with the model.

    Raises:
        ConfigError: no such file, none of gmsop's, a damaged one, or one of another model, other classes or another
            preparation of images; it answers otherwise.
    """
    path = Path(path)
    form = form_of(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            description, exported = form.read_description(path), form.run(path)
    except ConfigError:
        raise
    except Exception as error:  # each format's library has its own
        raise ConfigError(f"{path}: damaged, or no file of {form.name} ({first_line(error)})") from error
    if description is None:
        raise ConfigError(f"{path}: not exported by gmsop: its metadata says nothing of it")
    model = copy.deepcopy(plain_model(model)).cpu().float().eval()  # as it was exported, whatever it is kept in
    own = description_of(model, description["input"]["dtype"] == "uint8", "height" in description["input"]["shape"])
    if description["weights"] != own["weights"]:
        raise ConfigError(f"{path}: exported from another model than this one, or from one trained further")
    for part in ("classes", "input"):
        if description[part] != own[part]:
            raise ConfigError(
                f"{path}: was exported with other {'class names' if part == 'classes' else 'preparation of images'} "
                f"than the model's: {_difference(description[part], own[part])}"
            )
    how = Preprocess.of(model.pretrained_cfg)
    pixels = pixels_of(check, how, check_images, model.pretrained_cfg.get("label_names"), progress)
    whole = _Whole(model, how, own["input"]["normalised_inside"])
    agreement = compare(_eager(whole), exported, whole.inputs, pixels, progress)
    if description.get("quantized") is None:
        require_agreement(agreement, path, model.gate is not None)
    shape = tuple(description["input"]["shape"])
    return Exported(path, form.name, None, shape, description["input"]["dtype"], agreement)


def _difference(there: Any, own: Any) -> str:
    """Return the first thing in which two parts of descriptions differ."""
    pairs = [(key, there.get(key), own.get(key)) for key in own] if isinstance(own, dict) else []
    pairs = pairs or [(f"class {i}", a, b) for i, (a, b) in enumerate(zip(there, own, strict=False))]
    return next((f"{key} {a!r}, here {b!r}" for key, a, b in pairs if a != b), f"{len(there)}, here {len(own)}")


def form_of(path: Path) -> ExportForm:
    """Return the form of a file, by its extension.

    Raises:
        ConfigError: there is no such file, or no form has that extension.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    form = _form_by_name(path)
    if form is None:
        raise ConfigError(f"{path}: exported files end in {', '.join(form.suffix for form in EXPORT_FORMS)}")
    return form


def _form_by_name(path: Path) -> ExportForm | None:
    """Return the form with the longest extension that the name ends in."""
    fitting = [form for form in EXPORT_FORMS if path.name.endswith(form.suffix)]
    return max(fitting, key=lambda form: len(form.suffix), default=None)


class _Whole(nn.Module):
    """Computes logits from what the file takes."""

    def __init__(self, model: PooledClassifier, how: Preprocess, with_preprocess: bool) -> None:
        super().__init__()
        self.model, self.with_preprocess = model, with_preprocess
        self.how = how
        shape = (1, -1, 1, 1)
        self.register_buffer("mean", torch.tensor([255 * v for v in how.mean]).view(shape))
        self.register_buffer("std", torch.tensor([255 * v for v in how.std]).view(shape))

    def forward(self, images: Tensor) -> Tensor:
        if self.with_preprocess:
            mean, std = self.get_buffer("mean"), self.get_buffer("std")
            images = (images.permute(0, 3, 1, 2).to(torch.float32) - mean) / std
        logits: Tensor = self.model(images)
        return logits

    def inputs(self, pixels: Any) -> Any:
        """Turn pixels (b, H, W, 3) uint8 into what the file takes."""
        if self.with_preprocess:
            return pixels
        return self.how.input(torch.from_numpy(pixels)).contiguous().numpy()


def _eager(whole: _Whole) -> Any:
    def run(inputs: Any) -> Any:
        with torch.inference_mode():
            return whole(torch.from_numpy(inputs)).numpy()

    return run


def _require_possible(
    model: Any,
    form: ExportForm,
    path: Path,
    routing: str,
    quantize: str | None,
    calibrate: str | Path | None,
    opset: int | None,
    overwrite: bool,
) -> None:
    if model.in_chans != 3:
        raise ConfigError(f"a model is compared with its file on RGB images, this one takes {model.in_chans} channels")
    if model.spec is None:
        raise ConfigError("a model is exported that can be described: one of gmsop.create_model, attach or load_model")
    if model.num_classes < 1:
        raise ConfigError("the model has no classifier: there are no logits to export")
    if routing not in ROUTINGS:
        raise ConfigError(f"routing is one of {', '.join(ROUTINGS)}, got {routing!r}")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name the file")
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} is there already: --overwrite replaces it")
    if missing := [name for name in form.needs if importlib.util.find_spec(name) is None]:
        raise ConfigError(f"{form.name} needs {', '.join(missing)}: pip install {' '.join(missing)}")
    if opset is not None and not form.has_opset:
        raise ConfigError(f"--opset is ONNX's, {form.name} has none")
    if quantize not in (None, "int8"):
        raise ConfigError(f"quantize is int8 or nothing, got {quantize!r}")
    if quantize is not None and form.name != "onnx":
        raise ConfigError("quantize goes with onnx: onnxruntime does it")
    if calibrate is not None and quantize is None:
        raise ConfigError("calibrate goes with quantize int8")
    if _form_by_name(path) is not form:  # by its name it is told what it is, when it is verified
        raise ConfigError(f"{path}: a file of the form {form.name} ends in {form.suffix}")


def _trace(whole: _Whole, pixels: Any, dynamic_size: bool) -> torch.export.ExportedProgram:
    inputs = torch.from_numpy(whole.inputs(pixels))
    batch = torch.export.Dim("batch", min=1)
    shapes: dict[int, Any] = {0: batch}
    if dynamic_size:
        first = 1 if whole.with_preprocess else 2
        shapes |= {first: torch.export.Dim.DYNAMIC, first + 1: torch.export.Dim.DYNAMIC}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return torch.export.export(whole, (inputs,), dynamic_shapes=(shapes,))
    except Exception as error:
        reason = first_line(error)
        hint = "; without --dynamic_size it may go" if dynamic_size else ""
        raise ConfigError(f"torch.export cannot trace this model{hint}: {reason}") from error


def _require_no_own_operators(program: torch.export.ExportedProgram) -> None:
    own = {
        str(node.target)
        for module in program.graph_module.modules()
        if isinstance(module, torch.fx.GraphModule)
        for node in module.graph.nodes
        if str(node.target).startswith("gmsop")
    }
    if own:  # a program elsewhere would not know them
        raise ConfigError(f"the traced model calls operators of gmsop's own: {', '.join(sorted(own))}")
