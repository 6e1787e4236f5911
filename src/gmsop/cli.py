"""The command line: parsing and printing only. Each command is a pair `_NAME_arguments`, `_NAME`."""

import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace
from rich.console import Console
from rich.table import Table

from gmsop.errors import ConfigError, GmsopError

if TYPE_CHECKING:
    import torch

out = Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True, soft_wrap=True, highlight=False)


class Help(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Keeps the example on a line of its own."""


class Command(NamedTuple):
    run: Callable[[Namespace], int | None]
    arguments: Callable[[ArgumentParser, Sequence[str]], None]
    summary: str
    example: str


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0 done, 1 an error, 2 a wrong command line, 130 interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    description = "Second-order pooling and gated mixtures of it, for PyTorch."
    parser = ArgumentParser(prog="gmsop", description=description, formatter_class=Help)
    parser.add_argument("--version", action="version", version=_version())
    try:
        commands = parser.add_subcommands(dest="command", metavar="COMMAND")
        for name, command in COMMANDS.items():
            text = f"{command.summary}\n\nexample:\n  {command.example}"
            sub = ArgumentParser(description=text, formatter_class=Help)
            # All words are looked at beforehand: a recipe named on the command line sets the defaults of its options.
            command.arguments(sub, argv[1:] if argv[:1] == [name] else [])
            commands.add_subcommand(name, sub, help=command.summary)
        args = parser.parse_args(argv)
        return COMMANDS[args.command].run(args[args.command]) or 0
    except GmsopError as error:
        err.print(f"gmsop: error: {error}", markup=False)
        return 1
    except OSError as error:  # a path that is too long, or may not be looked into
        err.print(f"gmsop: error: {error}", markup=False)
        return 1
    except KeyboardInterrupt as stop:
        err.print(": ".join(["gmsop: interrupted", *map(str, stop.args)]), markup=False)
        return 130


def _version() -> str:
    from gmsop import __version__

    return f"gmsop {__version__}"


# --- models ---------------------------------------------------------------------------------------------------------


def _models_arguments(parser: ArgumentParser, argv: Sequence[str]) -> None:
    parser.add_argument("pattern", nargs="?", default="*", help="only names that match, for example 'gm_sop*'")


def _models(args: Namespace) -> int:
    from rich.progress import track

    from gmsop.catalog import card
    from gmsop.errors import UnknownNameError
    from gmsop.models import list_models
    from gmsop.published import PARAMETER_NOTES

    names = list_models(args.pattern)
    if not names:
        raise UnknownNameError.of("model", args.pattern, list_models())
    cards = [card(name) for name in track(names, "counting", console=err, transient=True)]
    table = Table("model", "parameters", "GFLOPs", "dim", "published top-1 / top-5 error, %", box=None)
    for column in table.columns[1:4]:
        column.justify = "right"
    notes: list[str] = []
    for c in cards:
        results = "; ".join(
            f"{r.top1:.2f} / {'-' if r.top5 is None else f'{r.top5:.2f}'} {r.dataset}{f' ({r.note})' if r.note else ''}"
            for r in c.results
        )
        mark = ""
        if c.name in PARAMETER_NOTES:
            notes.append(f"[{len(notes) + 1}] {c.name}: {PARAMETER_NOTES[c.name]}")
            mark = f" [{len(notes)}]"
        table.add_row(
            c.name + mark.replace("[", "\\["), f"{c.parameters:,}", f"{c.gflops:.2f}", str(c.representation), results
        )
    out.print(table)
    out.print("\nAt 1000 classes and 64 x 64 pixels. GFLOPs: one image, forward pass, counted; a multiply-add is 2.")
    for note in notes:
        out.print(note, markup=False)
    return 0


# --- recipes --------------------------------------------------------------------------------------------------------


def _recipes_arguments(parser: ArgumentParser, argv: Sequence[str]) -> None:
    parser.add_argument("name", nargs="?", help="print this recipe; without it, list all")


def _recipes(args: Namespace) -> None:
    from gmsop.recipe import recipe_names, recipe_text

    out.print(recipe_text(args.name) if args.name else "\n".join(recipe_names()), markup=False, end="\n")


# --- train ----------------------------------------------------------------------------------------------------------

DEFAULT_RECIPE = "demo/gm_sop_4_2"


def _train_arguments(parser: ArgumentParser, argv: Sequence[str]) -> None:
    from gmsop.recipe import Recipe

    parser.add_argument("--recipe", type=str, default=DEFAULT_RECIPE, help="name (see `gmsop recipes`) or YAML file")
    parser.add_argument("--data", type=str | None, help="packed set; default: the bundled sample images")
    parser.add_argument("--out", type=str | None, help="folder of the run; default: runs/RECIPE")
    parser.add_argument("--resume", type=str | None, help="run folder, or its .ckpt file, to go on with")
    parser.add_class_arguments(Recipe, as_group=True)
    parser.set_defaults(_recipe_of(argv).to_dict())


def _value_of(argv: Sequence[str], option: str) -> str | None:
    """The value of an option that has to be known before the others are parsed."""
    for i, word in enumerate(argv):
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
        if word == option and i + 1 < len(argv):
            return argv[i + 1]
    return None


def _recipe_of(argv: Sequence[str]) -> Any:
    from gmsop.recipe import load_recipe

    resume, name = _value_of(argv, "--resume"), _value_of(argv, "--recipe")
    if resume and not name:
        folder = _run_folder(resume)
        if not (folder / "recipe.yaml").is_file():
            raise ConfigError(f"--resume {resume}: {folder} is not the folder of a run (it has no recipe.yaml)")
        name = str(folder / "recipe.yaml")
    return load_recipe(name or DEFAULT_RECIPE)


def _run_folder(resume: str) -> Path:
    return Path(resume).parent if resume.endswith(".ckpt") else Path(resume)


def _train(args: Namespace) -> None:
    from dataclasses import fields

    from gmsop.data import sample_path
    from gmsop.recipe import Recipe
    from gmsop.training import train

    recipe = Recipe(**{f.name: args[f.name] for f in fields(Recipe)})
    if args.data is None:
        out.print("no --data: training on the bundled EuroSAT sample")
        args.data = sample_path(progress=True)
    resume = args.resume
    if resume:
        args.out = args.out or str(_run_folder(resume))
        resume = resume if resume.endswith(".ckpt") else str(Path(resume) / "last.ckpt")
    folder = Path(args.out) if args.out else _free_folder(Path("runs") / Path(args.recipe).with_suffix("").name)
    out.print(f"{recipe.model}, {recipe.total_epochs} epochs -> {folder}", markup=False)
    run = train(recipe, args.data, folder, resume, progress=True)
    _print_result(run.result)
    out.print(
        f"best epoch {run.best_epoch} of {recipe.total_epochs}: top-1 error {run.best_top1_error:.2f} %; "
        f"{run.parameters:,} parameters, {run.seconds:.0f} s\n"
        f"weights {folder / 'model.safetensors'}\ncurves  {folder / 'curves.png'}",
        markup=False,
    )


def _free_folder(path: Path) -> Path:
    """`path`, or `path-2`, `path-3`, ... if that holds a run already."""
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
    return candidate


# --- evaluate -------------------------------------------------------------------------------------------------------


def _evaluate_arguments(parser: ArgumentParser, argv: Sequence[str]) -> None:
    parser.add_argument("checkpoint", type=str, help=".safetensors or .ckpt file")
    parser.add_argument("--data", type=str | None, help="packed set; default: the bundled sample images")
    parser.add_argument("--split", type=str, default="val", help="train or val")
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--num_workers", type=int, default=0)
    parser.add_argument("--per_class", action="store_true", help="also print the error of each class")


def _evaluate(args: Namespace) -> None:
    from gmsop.checkpoint import load_model
    from gmsop.data import PackedDataset, sample_path
    from gmsop.evaluation import evaluate

    model = load_model(args.checkpoint)
    dataset = PackedDataset(args.data or sample_path(progress=True), args.split)
    result = evaluate(model, dataset, args.batch_size, args.num_workers, progress=True)
    _print_result(result)
    if args.per_class:
        out.print("top-1 error per class:")
        for name, error in zip(dataset.class_names, result.class_errors, strict=True):
            out.print(f"  {error:6.2f} %  {name}", markup=False)


def _print_result(result: Any) -> None:
    out.print(
        f"top-1 error {result.top1_error:.2f} %, top-5 error {result.top5_error:.2f} %, "
        f"cross-entropy {result.loss:.4f}, {result.images:,} images"
    )
    if result.component_load is not None:
        shares = " ".join(f"{100 * share:.1f}" for share in result.component_load)
        out.print(f"gate weight per component, %: {shares}")


# --- predict --------------------------------------------------------------------------------------------------------


def _predict_arguments(parser: ArgumentParser, argv: Sequence[str]) -> None:
    parser.add_argument("checkpoint", type=str, help=".safetensors or .ckpt file")
    parser.add_argument("images", nargs="+", type=str, help="image files")
    parser.add_argument("--top", type=int, default=5, help="how many classes to print")


def _predict(args: Namespace) -> int:
    from gmsop.checkpoint import load_model
    from gmsop.errors import DataError
    from gmsop.prediction import predict

    if args.top < 1:
        raise ConfigError(f"--top must be at least 1, got {args.top}")
    model = load_model(args.checkpoint)
    failed = 0
    for path in args.images:
        try:
            prediction = predict(model, path, args.top)
        except DataError as error:
            err.print(f"gmsop: error: {error}", markup=False)
            failed += 1
            continue
        out.print(path, markup=False)
        for name, probability in prediction.classes:
            out.print(f"  {100 * probability:6.2f} %  {name}", markup=False)
        if prediction.components is not None:
            chosen = ", ".join(f"{n} ({weight:.3f})" for n, weight in prediction.components)
            out.print(f"  components (weight): {chosen}", markup=False)
    if failed:
        err.print(f"gmsop: {failed} of {len(args.images)} images could not be read")
    return 1 if failed else 0


# --- prepare --------------------------------------------------------------------------------------------------------


PREPARE = {  # kind: what it reads, and the options that it takes besides those of all
    "folder": (
        "CLASS/*.jpg, or train/CLASS/* and val/CLASS/*, or a CSV of path,label",
        "size filter val_fraction seed",
    ),
    "imagenet": ("Downsampled ImageNet: train_data_batch_*, val_data, .npz or zipped", "size class_order"),
    "imdb": ("the authors' imdb.mat", "class_names md5"),
    "places365": ("Places-365 standard with its file lists", "size filter version"),
    "tiny-imagenet": ("tiny-imagenet-200", "size filter"),
}
DECODING = ("folder", "places365", "tiny-imagenet")


def _prepare_arguments(parser: ArgumentParser, argv: Sequence[str]) -> None:
    from gmsop.data.images import FILTERS

    kinds = "; ".join(f"{kind}: {reads}" for kind, (reads, _) in PREPARE.items())
    parser.add_argument("kind", choices=list(PREPARE), help=kinds)
    parser.add_argument("--source", type=str, required=True, help="the folder or file to read")
    parser.add_argument("--out", type=str, required=True, help="packed set to make")
    parser.add_argument("--size", type=int | None, help="images become SIZE x SIZE pixels; default 64, places365 100")
    parser.add_argument("--filter", type=str | None, help=f"{', '.join(FILTERS)}; default box, places365 bicubic")
    parser.add_argument("--val_fraction", type=float | None, help="folder: share held out without a val; default 0.2")
    parser.add_argument("--seed", type=int | None, help="folder: of the draw of the held-out images; default 0")
    order = "imagenet: release (default: the numbers everybody trained on it uses) or wordnet (torchvision's, timm's)"
    parser.add_argument("--class_order", type=str | None, help=order)
    parser.add_argument("--class_names", type=str | None, help="imdb: file with a class name a line")
    parser.add_argument("--md5", type=bool | None, help="imdb: true checks for the published ImageNet-64 file")
    parser.add_argument("--version", type=str | None, help="places365: 256 or large, where both are there")
    parser.add_argument("--on_error", type=str | None, help="images that cannot be read: stop (default) or skip")
    parser.add_argument("--workers", type=int | None, help="decoding processes; default: one per processor")
    parser.add_argument("--shard", type=str | None, help="I/N: decode only this share; a run without it joins all")
    parser.add_argument("--overwrite", action="store_true", help="replace a packed set that is there")


def _prepare(args: Namespace) -> None:
    from gmsop import data
    from gmsop.data.packed import read_meta

    own = {"size", "filter", "val_fraction", "seed", "class_order", "class_names", "md5", "version"}
    decoding = {"on_error", "workers", "shard"}
    allowed = set(PREPARE[args.kind][1].split()) | (decoding if args.kind in DECODING else set())
    given = {name: args[name] for name in own | decoding if args[name] is not None}
    if strange := sorted(set(given) - allowed):
        raise ConfigError(f"prepare {args.kind} has no option {', '.join(f'--{name}' for name in strange)}")
    rename = {"size": "image_size", "filter": "filter_name", "md5": "check_md5"}
    options = {rename.get(name, name): value for name, value in given.items() if name not in decoding}
    skipped: list[data.UnreadableImage] = []
    if args.kind in DECODING:
        how = data.PackOptions(**_decoding(given), overwrite=args.overwrite, progress=True)
        pack = {"folder": data.pack_folder, "places365": data.pack_places365, "tiny-imagenet": data.pack_tiny_imagenet}
        skipped = pack[args.kind](args.source, args.out, options=how, **options)  # type: ignore[operator]
        for bad in skipped:
            err.print(f"skipped {bad.path}: {bad.reason}", markup=False)
        if how.shard:
            done = f"share {how.shard[0]} of {how.shard[1]} is decoded; when all are, run again without --shard"
            out.print(f"{args.out}: {done}", markup=False)
            return
    elif args.kind == "imagenet":
        data.pack_imagenet(args.source, args.out, **options, overwrite=args.overwrite, progress=True)
    else:
        if file := options.pop("class_names", None):
            options["class_names"] = _lines_of(file)
        data.pack_imdb(args.source, args.out, **options, overwrite=args.overwrite, progress=True)
    meta = read_meta(args.out)
    counts = ", ".join(f"{n:,} {split}" for split, n in meta["splits"].items())
    mean = " ".join(f"{v:.1f}" for v in meta["rgb_mean"])
    size = sum(f.stat().st_size for f in Path(args.out).iterdir()) / 1e6
    side = meta["image_size"]
    out.print(
        f"{args.out}: {counts}, {len(meta['class_names'])} classes, {side} x {side} pixels, {size:,.1f} MB, "
        f"RGB mean {mean} (of 255){f', {len(skipped)} skipped' if skipped else ''}",
        markup=False,
    )


def _decoding(given: dict[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {name: given[name] for name in ("on_error", "workers") if name in given}
    if "shard" in given:
        first, slash, count = given["shard"].partition("/")
        if not (slash and first.isdigit() and count.isdigit()):
            raise ConfigError(f"--shard is I/N, such as 3/16; got {given['shard']!r}")
        options["shard"] = (int(first), int(count))
    return options


def _lines_of(file: str) -> list[str]:
    try:
        return Path(file).read_text().split("\n")[:-1]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read ({error})") from error


# --- data -----------------------------------------------------------------------------------------------------------


def _data_arguments(parser: ArgumentParser, argv: Sequence[str]) -> None:
    parser.add_argument("action", choices=["inspect", "verify"], help="say what is in a set; or re-hash it")
    parser.add_argument("path", type=str, help="packed set")
    parser.add_argument(
        "--sheet", type=str | None, help="inspect: PNG of random images; default: NAME.png beside the set"
    )


def _data(args: Namespace) -> None:
    from gmsop.data import contact_sheet, inspect_set
    from gmsop.data.packed import read_meta, verify_checksums

    path = Path(args.path)
    meta = read_meta(path)
    if args.action == "verify":
        with err.status("hashing"):
            verify_checksums(path, meta)
        out.print(f"{path}: both checksums are right", markup=False)
        return
    found = inspect_set(path, progress=True)
    table = Table("split", "images", "per class: fewest", "median", "most", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for split, counts in found.class_counts.items():
        ordered = sorted(counts)
        table.add_row(split, *(f"{n:,}" for n in (sum(counts), ordered[0], ordered[len(counts) // 2], ordered[-1])))
    size = meta["image_size"]
    out.print(
        f"{path}: {len(found.class_names)} classes, {size} x {size} pixels, {found.bytes / 1e6:,.1f} MB", markup=False
    )
    out.print(f"from {meta['source']}, filter {meta['filter']}\n", markup=False)
    out.print(table)
    for name, values in (("mean", found.rgb_mean), ("deviation", found.rgb_std)):
        out.print(f"RGB {name}: {' '.join(f'{v:.2f}' for v in values)} (of 255, training images)")
    if empty := [n for n, c in zip(found.class_names, found.class_counts.get("train", []), strict=False) if not c]:
        out.print(f"classes without a training image: {', '.join(empty[:10])}", markup=False)
    out.print(f"images of val that stand in train, too: {len(found.duplicates)}")
    for train, val in found.duplicates[:10]:
        out.print(f"  train {train} = val {val}")
    sheet = args.sheet or f"{path}.png"
    contact_sheet(path, sheet)
    out.print(f"random images: {sheet}", markup=False)


# --- convert --------------------------------------------------------------------------------------------------------


def _convert_arguments(parser: ArgumentParser, argv: Sequence[str]) -> None:
    parser.add_argument("source", type=str, help="NET.mat as the authors' training saves it")
    parser.add_argument("target", type=str, help="OUT.safetensors")


def _convert(args: Namespace) -> None:
    from gmsop.checkpoint import save_model
    from gmsop.convert import load_matconvnet

    if not args.target.endswith(".safetensors"):
        raise ConfigError(f"the target must end in .safetensors, got {args.target}")
    model = load_matconvnet(args.source)
    save_model(model, args.target)
    cfg, overrides = model.pretrained_cfg, {k: v for k, v in model.init_args.items() if k != "in_chans"}
    origin = cfg["source"]
    published = (
        f"the authors' published file for {origin['published']}" if origin["published"] else "not a published file"
    )
    mean = " ".join(f"{255 * v:.2f}" for v in cfg["mean"])
    differing = "; ".join(f"{k} {v}" for k, v in overrides.items())
    out.print(
        f"{cfg['architecture']}{f' with {differing}' if differing else ''}, {model.num_classes} classes, "
        f"{sum(p.numel() for p in model.parameters()):,} parameters\n"
        f"MD5 {origin['md5']}: {published}\nRGB mean {mean} (of 255)\n-> {args.target}",
        markup=False,
    )


# --- demo -----------------------------------------------------------------------------------------------------------


def _demo_arguments(parser: ArgumentParser, argv: Sequence[str]) -> None:
    parser.add_argument("--out", type=str | None, help="folder for the three runs; default: runs/demo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int | None, help="instead of the recipes' number")


def _demo(args: Namespace) -> None:
    from gmsop.demo import run_demo

    if args.epochs is not None and args.epochs < 1:
        raise ConfigError(f"--epochs must be at least 1, got {args.epochs}")
    folder = Path(args.out) if args.out else _free_folder(Path("runs/demo"))
    runs = run_demo(folder, args.seed, args.epochs)
    table = Table("head", "top-1 error, %", "parameters", "seconds", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for label, run in runs.items():
        table.add_row(label, f"{run.result.top1_error:.1f}", f"{run.parameters:,}", f"{run.seconds:.0f}")
    out.print("\nAfter the last epoch, on 500 images not trained on:\n")
    out.print(table)
    out.print(f"\ncurves: {folder / 'curves.png'}", markup=False)


# --- benchmark ------------------------------------------------------------------------------------------------------


def _benchmark_arguments(parser: ArgumentParser, argv: Sequence[str]) -> None:
    parser.add_argument("tables", nargs="*", help="operator, head, step, inference; default: operator and head")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    parser.add_argument("--models", default="*", help="which models `inference` times, for example '*_resnet18'")
    parser.add_argument("--json", type=str | None, help="also write every figure to this file")
    parser.add_argument("--small", type=bool, default=False, help="true: tiny sizes, to see that everything runs")


def _benchmark(args: Namespace) -> None:
    import json

    import torch

    from gmsop.benchmark import TABLES
    from gmsop.errors import UnknownNameError
    from gmsop.files import writing

    for name in args.tables:
        if name not in TABLES:
            raise UnknownNameError.of("table", name, list(TABLES))
    device = _benchmark_device(args.device)
    about = {
        "hardware": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
    }
    out.print(", ".join(about.values()))
    figures = {}
    for name in args.tables or ["operator", "head"]:
        torch.manual_seed(0)
        rows = []
        with err.status(f"measuring: {name}") as status:
            options = {"models": args.models} if name == "inference" else {}
            for row in TABLES[name](device, args.small, **options):
                rows.append(row)
                status.update(f"measuring: {name}; done: {row.case}, {row.candidate}")
                figures[name] = [row.as_dict() for row in rows]
                if args.json:  # as they come: a long run that is stopped has not been for nothing
                    with writing(args.json) as file:
                        file.write_text(json.dumps({**about, "tables": figures}, indent=1))
        out.print(f"\n{(TABLES[name].__doc__ or name).splitlines()[0]}")
        table = Table("case", "candidate", "error", "ms", "+-", "peak MiB", "ratio", box=None)
        for column in table.columns[2:]:
            column.justify = "right"
        for i, row in enumerate(rows):
            case = row.case if not i or rows[i - 1].case != row.case else ""
            table.add_row(
                case, row.candidate, f"{row.error:.0e}", f"{row.milliseconds:.2f}", f"{row.spread:.2f}",
                f"{row.peak_mib:.0f}", f"{row.ratio:.2f}",
            )  # fmt: skip
        out.print(table)
    out.print(
        "\nms: median of rounds in turn, +- half the quartiles' distance. ratio: the first one's time over this one's."
    )


def _benchmark_device(name: str) -> "torch.device":
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {name}: {str(error).splitlines()[0]}") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device {name}: only cpu and cuda are timed here")
    return device


COMMANDS = {
    "models": Command(_models, _models_arguments, "List the named models and their sizes.", "gmsop models 'gm_sop*'"),
    "recipes": Command(
        _recipes, _recipes_arguments, "List the recipes, or print one.", "gmsop recipes imagenet64/gm_sop_16_8_resnet18"
    ),
    "train": Command(
        _train,
        _train_arguments,
        "Train a model by a recipe; any of its values can be overridden.",
        "gmsop train --recipe demo/gm_sop_4_2 --epochs 10 --lr 0.1 --model_args.top_k=3",
    ),
    "evaluate": Command(
        _evaluate,
        _evaluate_arguments,
        "Measure a model's top-1 and top-5 error.",
        "gmsop evaluate runs/gm_sop_4_2/model.safetensors --per_class",
    ),
    "predict": Command(
        _predict,
        _predict_arguments,
        "Classify images, and tell which components the gate chose.",
        "gmsop predict runs/gm_sop_4_2/model.safetensors photo.jpg",
    ),
    "prepare": Command(
        _prepare,
        _prepare_arguments,
        "Pack images, or a published data set, into a set to train on.",
        "gmsop prepare folder --source photos --out photos64 --size 64",
    ),
    "data": Command(
        _data, _data_arguments, "Say what is in a packed set, or verify its checksums.", "gmsop data inspect photos64"
    ),
    "convert": Command(
        _convert,
        _convert_arguments,
        "Convert the authors' MatConvNet weights.",
        "gmsop convert net-epoch-60.mat gm_sop_resnet18.safetensors",
    ),
    "benchmark": Command(
        _benchmark,
        _benchmark_arguments,
        "Time operator, head, training step and inference on this machine, against other ways to the same numbers.",
        "gmsop benchmark operator head --json figures.json",
    ),
    "demo": Command(
        _demo, _demo_arguments, "Compare three heads on the bundled images, in five minutes.", "gmsop demo --seed 1"
    ),
}

if __name__ == "__main__":
    sys.exit(main())
