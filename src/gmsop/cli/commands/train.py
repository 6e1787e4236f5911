"""`gmsop train` trains by a recipe."""

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from gmsop.cli.printing import device_count, free_folder, out, print_result
from gmsop.errors import ConfigError
from gmsop.utils import verbosity

if TYPE_CHECKING:
    from gmsop.training.recipe import Recipe

GROUP = "train"
SUMMARY = "Train or fine-tune by a recipe, of which any value can be overridden."
EXAMPLE = "gmsop train --recipe demo/gm_sop_4_2 --epochs 10 --lr 0.1 --model_args.top_k=3"

DEFAULT_RECIPE = "demo/gm_sop_4_2"
FINE_TUNING = "finetune/default"
"""The recipe where a backbone is given, and no recipe."""
FOLDER = "GMSOP_RUN_FOLDER"
"""Tells the processes that Lightning starts, by the same command line, which folder the first one chose."""


def arguments(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """Add the command's options to `parser`."""
    from gmsop.data.data_options import DataOptions
    from gmsop.training.recipe import Recipe

    parser.add_argument(
        "--recipe", type=str, default=_default_recipe(argv), help="name (see `gmsop recipes`) or YAML file"
    )
    data = (
        "packed set; or, by a recipe for photographs, a folder, a table, a .tar or a name that timm knows (hfds/NAME)"
    )
    parser.add_argument("--data", type=str | None, help=f"{data}; default: the bundled sample images")
    parser.add_argument("--out", type=str | None, help="folder of the run; default: runs/RECIPE")
    parser.add_argument("--resume", type=str | None, help="run folder, or its .ckpt file, to go on with")
    parser.add_argument("--allow_changes", action="store_true", help="resume with another recipe or other data")
    scale = "run the recipe shortened: its epochs, and all of its schedule, times this"
    parser.add_argument("--scale", type=float | None, help=scale)
    parser.add_argument("--devices", type=str, default="auto", help="processes here: a number, or auto (all GPUs)")
    parser.add_argument("--num_nodes", type=int, default=1, help="machines")
    parser.add_argument("--accelerator", type=str, default="auto", help="cpu, cuda, mps or auto")
    parser.add_argument(
        "--wandb", type=str | None, help="log to this Weights & Biases project, too, and so when resumed"
    )
    parser.add_class_arguments(DataOptions, as_group=True)
    parser.add_class_arguments(Recipe, as_group=True)
    _in_sections(parser)
    parser.set_defaults(_recipe_of(argv).to_dict())
    if resume := _value_of(argv, "--resume"):
        parser.set_defaults(_recorded_options(resume))


def _in_sections(parser: Any) -> None:
    """Have `--help` show the recipe's options in its sections, not as one long list."""
    from gmsop.training.recipe import SECTIONS

    whole = next(g for g in parser._action_groups if any(a.dest == "checkpoint_every" for a in g._group_actions))
    actions, whole._group_actions = whole._group_actions, []
    section: Any = whole
    for action in actions:
        if action.dest in SECTIONS:
            section = parser.add_argument_group(f"recipe: {SECTIONS[action.dest]}")
        section._group_actions.append(action)


def _value_of(argv: Sequence[str], option: str) -> str | None:
    """Return the value of an option that must be known before the others are parsed; if given twice, the last."""
    value = None
    for i, word in enumerate(argv):
        if word.startswith(f"{option}="):
            value = word.partition("=")[2]
        elif word == option and i + 1 < len(argv):
            value = argv[i + 1]
    return value


def _recipe_of(argv: Sequence[str]) -> "Recipe":
    from gmsop.training.recipe import load_recipe

    resume, name = _value_of(argv, "--resume"), _value_of(argv, "--recipe")
    if resume and not name:
        folder = _run_folder(resume)
        if not (folder / "recipe.yaml").is_file():
            raise ConfigError(f"--resume {resume}: {folder} is not the folder of a run (it has no recipe.yaml)")
        name = str(folder / "recipe.yaml")
    recipe = load_recipe(name or _default_recipe(argv))
    if _value_of(argv, "--model") and recipe.backbone:  # a model in place of the recipe's backbone, or the reverse
        recipe.backbone, recipe.head, recipe.pretrained = "", "", False
    elif _value_of(argv, "--backbone") and recipe.model:
        recipe.model = ""
    if _value_of(argv, "--init"):
        recipe.pretrained = False
    return recipe


def _default_recipe(argv: Sequence[str]) -> str:
    named = any(_value_of(argv, option) for option in ("--backbone", "--head"))
    return FINE_TUNING if named else DEFAULT_RECIPE


def _run_folder(resume: str) -> Path:
    return Path(resume).parent if resume.endswith(".ckpt") else Path(resume)


def run(args: Namespace) -> None:
    """Run the command."""
    from dataclasses import fields

    from gmsop.data import sample_path
    from gmsop.data.data_options import DataOptions
    from gmsop.engine.messages import is_first_process
    from gmsop.training.plan import started_again
    from gmsop.training.recipe import Recipe
    from gmsop.training.resume import RunComplete
    from gmsop.training.run import train
    from gmsop.training.run_files import WEIGHTS

    recipe = Recipe(**{f.name: args[f.name] for f in fields(Recipe)})
    first = is_first_process()
    if args.scale is not None:
        if args.resume:
            raise ConfigError("--scale is for a new run; one that is resumed keeps its schedule")
        recipe = recipe.scaled(args.scale)
    if args.data is None and args.resume:
        args.data = _recorded_data(args.resume)
    if args.wandb is None and args.resume:
        args.wandb = _recorded(args.resume, "wandb")
    if args.data is None:
        if first:
            out.print("no --data: training on the bundled EuroSAT sample")
        args.data = sample_path(progress=first)
    folder = _folder(args, first)
    weights = folder / WEIGHTS
    weights_there = weights.exists()
    if first:
        out.print(
            f"{recipe.label}, {recipe.total_epochs} epoch{'s' * (recipe.total_epochs > 1)} -> {folder}", markup=False
        )
    try:
        done = train(
            recipe,
            args.data,
            folder,
            args.resume,
            progress=not verbosity.quiet,
            allow_changes=args.allow_changes,
            devices=device_count(args.devices),
            num_nodes=args.num_nodes,
            accelerator=args.accelerator,
            wandb=args.wandb,
            data_options=DataOptions(**{f.name: args[f.name] for f in fields(DataOptions)}),
        )
    except RunComplete as complete:
        if weights_there and not started_again():
            raise
        if first:
            out.print(f"{complete}\nweights {weights}", markup=False)
        return
    except BaseException as error:
        if first and not args.out and not args.resume:
            with suppress(OSError):  # a folder with anything in it stays
                folder.rmdir()
        if isinstance(error, KeyboardInterrupt) and not first:  # the first process reports it
            sys.exit(128 + getattr(error, "signum", signal.SIGINT))
        raise
    if not first:
        return
    print_result(done.result)
    out.print(
        f"best epoch {done.best_epoch} of {recipe.total_epochs}: top-1 error {done.best_top1_error:.2f} %; "
        f"{done.parameters:,} parameters, {done.seconds:.0f} s\n"
        f"weights {weights}\ncurves  {folder / 'curves.png'}\n"
        f"a page about it: gmsop report {folder}",
        markup=False,
    )


def _folder(args: Namespace, first: bool) -> Path:
    from gmsop.engine.trainer import by_torchrun

    if args.out:
        return Path(args.out)
    if args.resume:
        return _run_folder(args.resume)
    if not first and (known := os.environ.get(FOLDER)):
        return Path(known)
    name = Path(args.recipe).with_suffix("").name
    if job := os.environ.get("SLURM_JOB_ID"):  # a requeued job, and all its processes, must find the same folder
        return Path("runs") / f"{name}-{job}"
    if args.num_nodes > 1 or by_torchrun() or os.environ.get("WORLD_SIZE", "1") not in ("", "0", "1"):
        raise ConfigError("several machines, torchrun and others that start processes need --out to agree on a folder")
    folder = free_folder(Path("runs") / name)
    os.environ[FOLDER] = str(folder)
    return folder


def _recorded_data(resume: str) -> str:
    """Return the set that a run was started with, as its folder says.

    Raises:
        ConfigError: the folder does not say, or the set is not there any more.
    """
    from gmsop.data.timm_sources import is_timm_source

    data = _recorded(resume, "data")
    if data is None:
        raise ConfigError(f"--resume {resume}: nothing there says on which images the run was trained; pass --data")
    if not Path(data).exists() and not is_timm_source(data):
        raise ConfigError(f"--resume {resume}: its images were in {data}, which is not there any more; pass --data")
    return data


def _recorded_options(resume: str) -> dict[str, Any]:
    """Return the options of the data that the run was started with."""
    from dataclasses import fields

    from gmsop.data.data_options import DataOptions
    from gmsop.runs.environment import read_starts

    starts = read_starts(_run_folder(resume) / "environment.json")
    found = starts[-1].get("data_options", {}) if starts else {}
    known = {f.name for f in fields(DataOptions)}
    return {k: v for k, v in found.items() if k in known} if isinstance(found, dict) else {}


def _recorded(resume: str, what: str) -> str | None:
    """Return what the run's last start recorded as `what`, if its folder says so."""
    from gmsop.runs.environment import read_starts

    starts = read_starts(_run_folder(resume) / "environment.json")
    value = starts[-1].get(what) if starts else None
    return None if value is None else str(value)
