"""`gmsop predict` names the classes of images, a single one or a million."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from gmsop.cli.printing import Failures, note, out
from gmsop.errors import ConfigError

if TYPE_CHECKING:
    from gmsop.evaluation.prediction import Prediction

GROUP = "use"
SUMMARY = "Classify images, one or a million."
EXAMPLE = "gmsop predict runs/gm_sop_4_2 photos/ --out answers.csv"


def arguments(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("checkpoint", type=str, help="run folder, .safetensors or .ckpt file")
    sources = "files, folders, patterns ('photos/**/*.jpg'), tar files; - reads a path from each line of the input"
    parser.add_argument("images", nargs="+", type=str, help=sources)
    parser.add_argument("--top", type=int, default=5, help="how many classes to tell")
    add_batch_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON lines; the same as --form jsonl")
    add_output_options(parser)


def add_batch_options(parser: ArgumentParser) -> None:
    """Add the options of a command that runs a model over many images."""
    batch = "images at a time on each device; default: 64, on a CPU fewer of large images"
    parser.add_argument("--batch_size", type=int | None, help=batch)
    threads = "threads that decode images; default: as many as there are processors"
    parser.add_argument("--num_workers", type=int | None, help=threads)
    parser.add_argument("--precision", type=str, default="32-true", help="32-true, bf16-mixed, 16-mixed or 64-true")
    parser.add_argument("--devices", type=str, default="auto", help="auto, a number of GPUs, or cuda:0,cuda:1, or cpu")
    turned = "turn images as their EXIF data says, as viewers do"
    parser.add_argument("--exif_orientation", type=bool, default=True, help=turned)


def add_output_options(parser: ArgumentParser) -> None:
    """Add the options that say where answers go."""
    parser.add_argument("--out", type=str | None, help="write a file (.jsonl, .csv, .parquet) instead of printing")
    parser.add_argument("--form", type=str | None, help="jsonl, csv or parquet; default: by the file's extension")
    parser.add_argument("--resume", action="store_true", help="go on with a file that was begun and not finished")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")


def run(args: Namespace) -> int:
    """Run the command and return its exit status."""
    from gmsop.data.image_sources import iter_images
    from gmsop.evaluation.outputs.registry import Fields, form_for
    from gmsop.evaluation.prediction import predicted
    from gmsop.evaluation.unfinished import Unfinished, made_by
    from gmsop.utils.progress import progress_bar
    from gmsop.weights.model_file import load_model

    if args.top < 1:
        raise ConfigError(f"--top must be at least 1, got {args.top}")
    path = Path(args.out) if args.out else None
    if args.json and args.form not in (None, "jsonl"):
        raise ConfigError(f"--json and --form {args.form}: one of them")
    form = form_for(path, "jsonl" if args.json and path is None else args.form)
    if args.json and form is not None and form.name != "jsonl":
        raise ConfigError(f"--json: {path} is a file of the form {form.name}; leave --json out, or name a .jsonl file")
    if path is None and (args.resume or args.overwrite):
        raise ConfigError("--resume and --overwrite go with --out FILE")
    if path is None and form is not None and form.stream is None:
        raise ConfigError(f"--form {form.name} needs --out FILE")
    if form is not None and form.name == "parquet":
        from gmsop.evaluation.outputs.parquet import require_pyarrow

        require_pyarrow()  # now, not after a million images
    model = load_model(args.checkpoint)
    top = min(args.top, model.num_classes)
    chosen = None if model.gate is None else model.gate.top_k
    fields: Fields = {"image": None, "class": top, "probability": top}
    fields = {**fields, **({} if chosen is None else {"component": chosen, "weight": chosen}), "error": None}
    images = iter_images(args.images, sys.stdin)
    settings: dict[str, Any] = {"batch_size": args.batch_size, "num_workers": args.num_workers}
    settings |= {"precision": args.precision, "devices": args.devices}
    failed = Failures()
    if path is not None:
        assert form is not None
        of = made_by(model, args.precision, args.exif_orientation) | {"top": top}
        with Unfinished(path, of, args.resume, args.overwrite) as there:
            failed.count_again(there.records())
            if there.count:
                note(f"goes on after {there.count:,} images")
            answers = predicted(model, there.rest(images), top, args.exif_orientation, "skip", **settings)
            with there.writing() as append, progress_bar(True) as bar:
                task = bar.add_task("images", total=None, completed=there.count)
                for answer in answers:
                    failed.note(answer.error)
                    append([_record(answer)])
                    bar.advance(task)
            if failed.images:
                there.finish(form, fields)
        if failed.images:
            out.print(f"{failed.images:,} images -> {path}", markup=False)
        return failed.end()
    answers = predicted(model, images, top, args.exif_orientation, "skip", **settings)
    if form is not None:
        assert form.stream is not None
        with progress_bar(not sys.stdout.isatty()) as bar:
            records = (_record(answer) for answer in bar.track(failed.watched(answers), description="images"))
            form.stream(records, fields, sys.stdout)
        sys.stdout.flush()
        return failed.end()
    for answer in failed.watched(answers):
        _print(answer)
    return failed.end()


def _record(answer: "Prediction") -> dict[str, Any]:
    from gmsop.utils.text import printable

    record: dict[str, Any] = {"image": answer.name}
    if answer.error is not None:
        return {**record, "error": printable(answer.error)}
    record["class"] = [name for name, _ in answer.classes]
    record["probability"] = [round(value, 6) for _, value in answer.classes]
    if answer.components is not None:
        record["component"] = [number for number, _ in answer.components]
        record["weight"] = [round(value, 6) for _, value in answer.components]
    return record


def _print(answer: "Prediction") -> None:
    from gmsop.utils.text import printable

    if answer.error is not None:
        return
    out.print(printable(answer.name), markup=False)
    for name, probability in answer.classes:
        out.print(f"  {100 * probability:6.2f} %  {printable(name)}", markup=False)
    if answer.components is not None:
        chosen = ", ".join(f"{n} ({weight:.3f})" for n, weight in answer.components)
        out.print(f"  components (weight): {chosen}", markup=False)
