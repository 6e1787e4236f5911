"""The demo trains average pooling, second-order pooling and the gated mixture alike on the bundled images."""

from pathlib import Path

from gmsop.data import sample_path
from gmsop.runs.curves import plot_curves
from gmsop.training.recipe import load_recipe
from gmsop.training.run import Run, train

RECIPES = {"GAP": "demo/gap", "SR-SOP": "demo/sr_sop", "GM-SOP": "demo/gm_sop_4_2"}


def run_demo(out: str | Path, seed: int = 0, epochs: int | None = None, progress: bool = True) -> dict[str, Run]:
    """Train the demo's models one after the other: same backbone, images, epochs, optimiser and seed.

    It leaves one run folder per model in `out`, and `curves.png` with all of them.

    Args:
        epochs: number of epochs in place of the recipes'.

    Raises:
        ConfigError: `out` already holds a demo.
    """
    out = Path(out)
    data = sample_path(progress)
    runs: dict[str, Run] = {}
    for label, name in RECIPES.items():
        recipe = load_recipe(name)
        recipe.seed = seed
        recipe.epochs = epochs or recipe.epochs
        if progress:
            print(f"\n{label}: {recipe.model}, {recipe.total_epochs} epochs", flush=True)
        runs[label] = train(recipe, data, out / label.lower(), progress=progress)
    plot_curves({label: run.folder / "metrics.csv" for label, run in runs.items()}, out / "curves.png")
    return runs
