"""Show what a run is about to do: which parameters learn at what rate, and what the network will see."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from gmsop.data.inspection import draw_sheet
from gmsop.data.preprocess import Preprocess
from gmsop.data.streamed import Streamed
from gmsop.engine.messages import warn
from gmsop.training.optimizer import create_optimizer, groups_of, rates_of
from gmsop.training.plan import Plan
from gmsop.training.recipe import Recipe
from gmsop.training.schedule import rate_and_momentum
from gmsop.training.task import TrainingTask
from gmsop.utils.files import WriteError, writing

SHEET, SCHEDULE, PARAMETERS = "augmented.png", "learning_rate.png", "parameters.txt"
SHOWN = 32
"""Training images on the sheet."""


def parameter_table(plan: Plan, classifier_share: float | None) -> str:
    """Return a table of the parameters that learn, by group, with rate and weight decay at the schedule's peak."""
    recipe = plan.recipe
    rows = [("learns", "parameters", "rate", "weight decay")]
    for part in groups_of(create_optimizer(plan.model, recipe, classifier_share)):
        rates, count = rates_of(part, recipe), sum(p.numel() for p in part.params)
        if count:
            rows.append((part.name, f"{count:,}", f"{rates['lr']:.3g}", f"{rates['weight_decay']:.3g}"))
    if plan.frozen:
        count = sum(p.numel() for p in plan.frozen)
        until = f"until epoch {recipe.unfreeze_epoch + 1}" if recipe.unfreeze_epoch else ""
        of_them = ", of these" if recipe.unfreeze_epoch else ""
        rows.append((f"frozen{of_them}", f"{count:,}", "0", until))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        f"{name:{widths[0]}}  {count:>{widths[1]}}  {rate:>{widths[2]}}  {decay:>{widths[3]}}".rstrip()
        for name, count, rate, decay in rows
    )


def write_preview(plan: Plan, task: TrainingTask, steps_per_epoch: int, table: str) -> None:
    """Write the sheet of augmented images, the picture of the rate and the table into the run's folder.

    A picture that cannot be written is warned about; the run goes on.
    """
    try:
        with writing(plan.out / PARAMETERS) as temporary:
            temporary.write_text(f"{table}\n", encoding="utf-8")
        plot_schedule(plan.recipe, steps_per_epoch, plan.out / SCHEDULE)
        if not isinstance(plan.train_set, Streamed):  # its first images come when its processes have started
            draw_augmented(plan, task, plan.out / SHEET)
    except (WriteError, OSError) as error:
        warn(str(error))


@torch.no_grad()
def draw_augmented(plan: Plan, task: TrainingTask, file: Path) -> None:
    """Draw training images of the first epoch as the network sees them, before mixup or cutmix.

    Raises:
        WriteError: no space, no permission.
    """
    train_set: Any = plan.train_set
    recipe = plan.recipe
    order = torch.randperm(len(train_set), generator=torch.Generator().manual_seed(recipe.seed))[:SHOWN].numpy()
    images, labels = train_set.batch(order)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        inputs = task.augmented(torch.from_numpy(np.array(images)))
    prepared = Preprocess.of(plan.model.pretrained_cfg)
    mean, std = (torch.tensor(values)[:, None, None] for values in (prepared.mean, prepared.std))
    pixels = ((inputs.float() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    draw_sheet(list(pixels), [train_set.class_names[label] for label in labels], file)


def plot_schedule(recipe: Recipe, steps_per_epoch: int, file: Path) -> None:
    """Draw the learning rate over the epochs, as the schedule will set it.

    Raises:
        WriteError: no space, no permission.
    """
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # this one needs no window system

    with style.context("default"):  # a `matplotlibrc` in the working directory could have LaTeX run
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 3), dpi=120, layout="constrained")
        axes = figure.add_subplot()
        total = recipe.total_epochs * steps_per_epoch
        places = np.unique(np.linspace(0, total - 1, min(total, 2000)).round().astype(int)).tolist()
        rates = [
            recipe.lr * rate_and_momentum(recipe, place // steps_per_epoch, place % steps_per_epoch, steps_per_epoch)[0]
            for place in places
        ]
        axes.plot([place / steps_per_epoch for place in places], rates)
        axes.set(xlabel="epoch", ylabel="learning rate", ylim=(0, None))
        axes.grid(alpha=0.3)
        with writing(file) as temporary:
            FigureCanvasAgg(figure).print_png(str(temporary))
