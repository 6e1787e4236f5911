"""`gmsop evaluate` measures a model's error rates."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from gmsop.cli.printing import device_count, err, note, out, print_json, print_result
from gmsop.errors import ConfigError
from gmsop.utils import verbosity

if TYPE_CHECKING:
    from gmsop.data import FolderDataset, PackedDataset
    from gmsop.evaluation.error_rates import Evaluation
    from gmsop.models.classifier import PooledClassifier

GROUP = "measure"
SUMMARY = "Measure a model's top-1 and top-5 error, each image once."
EXAMPLE = "gmsop evaluate runs/gm_sop_4_2/model.safetensors --per_class --confusion confusion.csv"


def arguments(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("checkpoint", type=str, help=".safetensors or .ckpt file")
    parser.add_argument("--data", type=str | None, help="packed set or folder of images; default: the bundled sample")
    parser.add_argument("--split", type=str, default="val", help="train or val")
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--num_workers", type=int, default=0)
    parser.add_argument("--precision", type=str, default="32-true", help="32-true, bf16-mixed, 16-mixed or 64-true")
    parser.add_argument("--devices", type=str, default="1", help="how many share the images, or auto")
    ema = "false: of a .ckpt trained with ema_decay, take the weights as they were, not their average"
    parser.add_argument("--ema", type=bool, default=True, help=ema)
    named = "folder of images: file with the folder's name of each of the model's classes, one a line, in their order"
    parser.add_argument("--folder_names", type=str | None, help=named)
    unreadable = "folder of images: stop at one that cannot be read, or skip it"
    parser.add_argument("--on_error", type=str, default="stop", help=unreadable)
    turned = "folder of images: turn them as their EXIF data says, as viewers do"
    parser.add_argument("--exif_orientation", type=bool, default=True, help=turned)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--per_class", action="store_true", help="also print the error of each class")
    parser.add_argument("--class_csv", type=str | None, help="write the error of each class to this file")
    parser.add_argument("--confusion", type=str | None, help="write the confusion matrix to this CSV file")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")


def run(args: Namespace) -> None:
    """Run the command."""
    from gmsop.engine.messages import is_first_process
    from gmsop.evaluation.error_rates import evaluate
    from gmsop.evaluation.tables import write_class_errors, write_confusion
    from gmsop.weights.model_file import load_model

    written = [Path(each) for each in (args.class_csv, args.confusion) if each]
    for file in written:
        if file.exists() and not args.overwrite:
            raise ConfigError(f"{file} is there already: --overwrite replaces it")
    if len({file.resolve() for file in written}) < len(written):
        raise ConfigError(f"--class_csv and --confusion both name {args.confusion}")
    model = load_model(args.checkpoint, averaged=args.ema)
    dataset = _dataset(args, model)
    devices = device_count(args.devices)
    result = evaluate(model, dataset, args.batch_size, args.num_workers, args.precision, not verbosity.quiet, devices)
    if not is_first_process():
        return
    for reason in result.skipped[:20]:
        err.print(f"skipped {reason}", markup=False)
    if result.skipped:
        err.print(f"gmsop: warning: {len(result.skipped)} images cannot be read and do not count", style="bold red")
    names = dataset.class_names
    if args.json:
        print_json(_figures(result, names))
    else:
        _print(result, names, args.per_class)
    if args.class_csv:
        write_class_errors(args.class_csv, names, result.confusion)
        note(f"errors per class {args.class_csv}")
    if args.confusion:
        write_confusion(args.confusion, names, result.confusion)
        note(f"confusion matrix {args.confusion}: true class per row, answer per column")


def _figures(result: "Evaluation", names: Sequence[str]) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "images": result.images, "top1_error": result.top1_error, "top1_interval": result.top1_interval,
        "top5_error": result.top5_error, "top5_interval": result.top5_interval, "cross_entropy": result.loss,
        "class_errors": dict(zip(names, result.class_errors, strict=True)), "skipped": result.skipped,
        "seconds": result.seconds,
    }  # fmt: skip
    if result.usage is not None:
        figures["gate"] = {"load": result.usage.load, "dead": result.usage.dead, "entropy": result.usage.entropy}
    return figures


def _print(result: "Evaluation", names: Sequence[str], per_class: bool) -> None:
    from gmsop.utils.text import printable

    print_result(result)
    out.print(f"{result.images / result.seconds:,.0f} images/s, reading included ({result.seconds:.1f} s)")
    if per_class:
        out.print("top-1 error per class:")
        for name, error in zip(names, result.class_errors, strict=True):
            out.print(f"  {error:6.2f} %  {printable(name)}", markup=False)


def _dataset(args: Namespace, model: "PooledClassifier") -> "PackedDataset | FolderDataset":
    from dataclasses import replace

    from gmsop.data import FolderDataset, PackedDataset, sample_path
    from gmsop.data.preprocess import Preprocess
    from gmsop.engine.messages import warn
    from gmsop.utils.text import read_lines

    path = Path(args.data or sample_path(progress=True))
    cfg: dict[str, Any] = model.pretrained_cfg
    if path.suffix.lower() in (".csv", ".tsv") and not path.is_dir():
        raise ConfigError(
            f"{path}: evaluate takes a folder of images or a packed set; gmsop prepare makes one of a table"
        )
    if not path.is_dir() or (path / "meta.json").exists():
        if args.folder_names:
            raise ConfigError("--folder_names is for a folder of images: a packed set names its classes itself")
        packed = PackedDataset(path, args.split)
        if packed.image_size != cfg["input_size"][1]:
            size = f"the images have {packed.image_size} pixels, the model is for {cfg['input_size'][1]}"
            warn(f"{size}: a packed set is not resized")
        return packed
    how = replace(Preprocess.of(cfg), exif_orientation=args.exif_orientation)
    folder_names = list(read_lines(Path(args.folder_names))) if args.folder_names else None
    dataset = FolderDataset(
        path, args.split, how.image_size, cfg.get("label_names"), folder_names=folder_names, on_error=args.on_error,
        preprocess=how,
    )  # fmt: skip
    _warn_of_training_images(Path(args.checkpoint), dataset)
    return dataset


def _warn_of_training_images(checkpoint: Path, dataset: "FolderDataset") -> None:
    """Warn if the images are those that the model learned from, as the files of its run or of its probe say."""
    import json

    from gmsop.engine.messages import warn
    from gmsop.runs.run_folder import DAMAGED, HELD_OUT
    from gmsop.utils.text import read_lines

    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    here = {Path(each).relative_to(dataset.path).as_posix() for each in dataset.files}
    if (file := folder / HELD_OUT).exists():
        held_out = set(read_lines(file))
        if held_out < here:
            warn(f"the model learned from {len(here - held_out):,} of these images; {file} names the {len(held_out):,} "
                 "that it was validated on")  # fmt: skip
    elif (file := folder / "comparison.json").exists():
        try:
            probe = json.loads(file.read_text(encoding="utf-8"))
            same = Path(probe["about"]["data"]["path"]).resolve() == dataset.path.resolve()
            if same and probe["images"] == probe["test_images"] == len(here):  # cross-validated
                warn(f"the model was fitted to these images; {file} has the error that was cross-validated on them")
        except DAMAGED:
            return
