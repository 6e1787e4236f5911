"""A whole run goes from a recipe, a set and an empty folder to a trained model, or on from where it stopped."""

import signal
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from gmsop.data.data_options import DataOptions
from gmsop.data.reading_processes import deaths_in_words
from gmsop.engine.messages import is_first_process
from gmsop.engine.trainer import settings_as_before
from gmsop.errors import CheckpointError, ConfigError, GmsopError
from gmsop.evaluation.error_rates import Evaluation
from gmsop.training.build import Built, Machines, build
from gmsop.training.checkpoints import LAST
from gmsop.training.plan import Plan, make_plan
from gmsop.training.preview import parameter_table, write_preview
from gmsop.training.recipe import Recipe
from gmsop.training.resume import where_it_goes_on
from gmsop.training.run_files import alone_in, begin_folder, finish_folder, seconds_of
from gmsop.training.signals import Interrupted, Stop


@dataclass(frozen=True)
class Run:
    """A `Run` is what a finished run left behind."""

    folder: Path
    result: Evaluation
    """The errors on the validation split after the last epoch."""
    best_top1_error: float
    best_epoch: int
    seconds: float
    """Training and validation time, in all starts."""
    parameters: int


@settings_as_before()
def train(
    recipe: Recipe,
    data: str | Path,
    out: str | Path,
    resume: str | Path | None = None,
    progress: bool = False,
    *,
    allow_changes: bool = False,
    devices: int | str = "auto",
    num_nodes: int = 1,
    accelerator: str = "auto",
    wandb: str | None = None,
    data_options: DataOptions | None = None,
) -> Run:
    """Train the recipe's model on `data`: a packed set or, by a recipe for photographs, whatever holds images.

    It leaves in the folder `out`: `recipe.yaml`, `environment.json`, `metrics.csv`, `timing.csv`, TensorBoard events,
    `curves.png`, `best.ckpt` (lowest top-1 error on val) and `validation.npz` (its confusion matrix and gate usage),
    `last.ckpt` and `previous.ckpt`, `model.safetensors` (the weights of `best.ckpt`).

    It runs in one process, or in as many as there are devices, started by Lightning or by `torchrun`, whose numbers
    then count. The recipe's batch size is that of all of them together.

    Args:
        resume: a run folder, usually `out`, or a `.ckpt` file, to go on from. A run that ended before its first
            checkpoint begins anew.
        progress: show a progress bar and a line per epoch.
        allow_changes: resume with another recipe, or other data, than the run had.
        devices: processes on this machine, one per GPU (or CPU process); "auto": all GPUs, or one CPU process.
        num_nodes: machines.
        accelerator: "cpu", "cuda", ... as Lightning names them.
        wandb: a Weights & Biases project to log to.
        data_options: where images lie, and which of them are validated on.

    Raises:
        ConfigError: a recipe value that cannot work, here or at all; `out` already holds a run and `resume` is not
            given; `resume` is of another recipe; another process trains into `out`.
        RunComplete: `resume` has done all its epochs. What should lie in `out` at the end lies there.
        DataError: `data` holds no images that can be trained on, or is no packed set where the recipe wants one, or of
            another image size than the recipe's.
        TrainingError: the loss is not finite any more; the text says where it began and what checkpoint is good.
        CheckpointError: `resume` is missing, damaged, or of another model.
        WriteError: `out` cannot be written at the start or at the end; in between there is only a warning.
        KeyboardInterrupt: Ctrl-C or SIGTERM (`Interrupted`, with its `signum`); its text says how to go on.
    """
    out, first = Path(out), is_first_process()
    with alone_in(out) if first else nullcontext():
        plan = make_plan(
            recipe, str(data), out, None if resume is None else Path(resume), allow_changes, progress and first,
            data_options,
        )  # fmt: skip
        built = build(plan, Machines(devices, num_nodes, accelerator), wandb, progress)
        ranks = built.trainer.world_size
        if not first and ranks == 1:
            raise ConfigError(
                "RANK, LOCAL_RANK, NODE_RANK or SLURM_PROCID in the environment says that this is not the run's first "
                "process, but it is the only one: unset it, or start the run by torchrun, srun or Lightning"
            )
        if progress and first and plan.checkpoint is not None:
            print(where_it_goes_on(plan.checkpoint, ranks), flush=True)
        if first:
            options = data_options.given() if data_options else {}
            about = {"data_options": options} if options else {}
            about |= {"start": plan.start.to_dict()} if plan.start else {}
            begin_folder(out, recipe, str(data), ranks, plan.path, plan.checkpoint, wandb, plan.held_out, about)
            table = parameter_table(plan, built.task.classifier_share)
            if progress:
                print(table, flush=True)
            if plan.checkpoint is None:
                steps = -(-len(built.train_batches) // recipe.accumulate)
                write_preview(plan, built.task, steps, table)
        _fit(built, plan)
        if built.trainer.is_global_zero:
            finish_folder(out, recipe)
    parameters = sum(p.numel() for p in plan.model.parameters())
    best = built.writer
    return Run(out, built.task.result, best.best_top1_error, best.best_epoch + 1, seconds_of(out), parameters)


def _fit(built: Built, plan: Plan) -> None:
    out, trainer = plan.out, built.trainer
    try:
        with deaths_in_words("Go on with: gmsop train --resume " + str(out)):
            trainer.fit(built.task, built.train_batches, built.val_batches, ckpt_path=plan.path, weights_only=True)
    except Stop as stop:
        raise Interrupted(stop.signum, _hint(out)) from None
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if plan.path is None or built.task.began or isinstance(error, GmsopError):
            raise
        line = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointError(
            f"{plan.path}: damaged, or of another version: it cannot be gone on with ({line})"
        ) from error
    except SystemExit:  # Lightning ends so after a Ctrl-C that did not wait for the end of a step
        if not trainer.interrupted:
            raise
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning has switched it off
        raise Interrupted(signal.SIGINT, _hint(out)) from None


def _hint(out: Path) -> str:
    return f"go on with: gmsop train --resume {out}" if (out / LAST).exists() else "there is no checkpoint yet"
