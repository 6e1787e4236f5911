"""`gmsop export` writes a model as a file that runs without gmsop."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from gmsop.cli.printing import note, out, print_json

if TYPE_CHECKING:
    from gmsop.export import Exported

GROUP = "use"
SUMMARY = "Write a model as ONNX or torch.export, checked against it."
EXAMPLE = "gmsop export runs/gm_sop_4_2 --to onnx --with_preprocess true"


def arguments(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("checkpoint", type=str, help="run folder, .safetensors or .ckpt file")
    parser.add_argument("--to", type=str, default="onnx", help="onnx, torch-export or aotinductor")
    parser.add_argument("--out", type=str | None, help="the file; default: beside the model, named as it")
    pixels = "the file takes uint8 pixels (B, H, W, 3) and normalises them"
    parser.add_argument("--with_preprocess", type=bool, default=False, help=pixels)
    size = "the file takes any height and width that the backbone takes"
    parser.add_argument("--dynamic_size", type=bool, default=False, help=size)
    parser.add_argument("--opset", type=int | None, help="ONNX's set of operators; default: 20")
    parser.add_argument("--routing", type=str, default="sparse", help="of a gate: sparse (K components) or dense (all)")
    parser.add_argument("--quantize", type=str | None, help="int8: 8 bits where that is enough (onnx only)")
    parser.add_argument("--calibrate", type=str | None, help="with --quantize: images that set the ranges beforehand")
    parser.add_argument("--check", type=str | None, help="images to compare on; default: the bundled ones")
    parser.add_argument("--check_images", type=int, default=500, help="how many of them, at most")
    parser.add_argument("--verify", type=str | None, help="compare this file, exported before, with the model instead")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: Namespace) -> None:
    """Run the command."""
    from gmsop.export import export_model, verify
    from gmsop.export.registry import EXPORT_FORMS
    from gmsop.weights.model_file import load_model

    form = EXPORT_FORMS[args.to]
    source = Path(args.checkpoint)
    beside = source / "model" if source.is_dir() else source.with_suffix("")
    path = Path(args.out) if args.out else beside.with_name(beside.name + form.suffix)
    model = load_model(args.checkpoint)
    if args.verify:
        done = verify(model, args.verify, args.check, args.check_images, progress=True)
        _print(done, args.json)
        return
    if not args.json:
        note(f"tracing {model.spec.name if model.spec else 'the model'} ...")
    done = export_model(
        model, path, args.to, with_preprocess=args.with_preprocess, dynamic_size=args.dynamic_size, opset=args.opset,
        routing=args.routing, quantize=args.quantize, calibrate=args.calibrate, check=args.check,
        check_images=args.check_images, overwrite=args.overwrite, progress=True,
    )  # fmt: skip
    _print(done, args.json)


def _print(done: "Exported", as_json: bool) -> None:
    agreement = done.agreement
    if as_json:
        found: dict[str, Any] = {
            "path": str(done.path), "bytes": done.path.stat().st_size, "made_of": done.made_of,
            "routing": done.routing, "input": {"shape": done.input_shape, "dtype": done.input_dtype},
            "images": agreement.images, "relative_error": agreement.error, "same_class": agreement.same,
            "model_top1_error": agreement.model_error, "file_top1_error": agreement.file_error,
            "milliseconds": {
                size: dict(zip(("model", "file", "ratio"), values, strict=True))
                for size, values in agreement.milliseconds.items()
            },
        }  # fmt: skip
        print_json(found)
        return
    routing = {"sparse": ", routing: sparse (the chosen components)", "dense": ", routing: dense (all components)"}
    out.print(f"{done.path} ({done.path.stat().st_size / 1e6:.1f} MB): {done.made_of}"
              f"{routing.get(done.routing or '', '')}", markup=False)  # fmt: skip
    shape = ", ".join(map(str, done.input_shape))
    out.print(f"input: {done.input_dtype} ({shape}); the metadata says how images become that", markup=False)
    out.print(
        f"on {agreement.images} images: relative error of the logits {agreement.error:.1e}, the same class for "
        f"{agreement.same}", markup=False,
    )  # fmt: skip
    if agreement.model_error is not None and agreement.file_error is not None:
        out.print(f"top-1 error: model {agreement.model_error:.2f} %, file {agreement.file_error:.2f} %", markup=False)
    for size, (model_ms, file_ms, ratio) in agreement.milliseconds.items():
        out.print(
            f"batch {size}: model {model_ms:.1f} ms, file {file_ms:.1f} ms, {ratio:.2f} times as fast", markup=False
        )
