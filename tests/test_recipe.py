import re
import time
from dataclasses import field, fields, make_dataclass
from pathlib import Path

import pytest
import torch
import yaml

import gmsop
from gmsop.errors import ConfigError, UnknownNameError
from gmsop.models.cost import card
from gmsop.models.published import IMAGENET64, RESULTS
from gmsop.training.recipe import Recipe, load_recipe, recipe_names, recipe_text


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid_and_says_how_to_run_it(name):
    recipe = load_recipe(name)
    recipe.check()
    with torch.device("meta"):
        if recipe.backbone:
            gmsop.attach(recipe.backbone, recipe.head, 10, **recipe.model_args)
        else:
            assert recipe.model in gmsop.list_models()
            gmsop.create_model(recipe.model, 10, **recipe.model_args)
    assert f"gmsop train --recipe {name}" in recipe_text(name)


def test_every_published_row_has_a_recipe():
    rows = {("imagenet64" if r.dataset == IMAGENET64 else "places365", r.model, bool(r.note)) for r in RESULTS}
    recipes = {(n.split("/")[0], load_recipe(n).model, n.endswith("flips_added")) for n in recipe_names()}
    assert len(rows) == 19
    assert rows <= recipes
    assert {("imagenet64", "gap_wrn36_2", False), ("imagenet64", "sr_sop_wrn36_2", False)} <= recipes


PUBLISHED = [name for name in recipe_names() if name.startswith(("imagenet64/", "places365/"))]
FULL_SIZE = [name for name in recipe_names() if name.startswith(("imagenet224/", "finegrained/"))]

SETTINGS = {  # the reference's table of training settings: the first that a recipe's name holds
    "gap_wrn36_2": ([20, 10, 10], 0.1, 150),
    "sr_sop_wrn36_2": ([10, 10, 10], 0.1, 150),
    "gm_gap_16_8_wrn36_2": ([20, 10, 10], 0.1, 150),
    "gm_sop_16_8_wrn36_2": ([20, 10, 5, 5], 0.09, 150),
    "_resnet50": ([50, 10, 5, 5], 0.1, 256),
    "gap_": ([50, 15, 10], 0.075, 256),
    "sr_sop_": ([40, 10, 5, 5], 0.15, 256),
    "sop_": ([40, 10, 5, 5], 0.1, 256),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings(name):
    recipe = load_recipe(name)
    wanted = next(settings for part, settings in SETTINGS.items() if part in name)
    assert (recipe.epochs, recipe.lr, recipe.batch_size) == wanted
    assert (recipe.momentum, recipe.nesterov, recipe.weight_decay) == (0.9, False, 1e-4)
    assert (recipe.stem_scale, recipe.bn_momentum, recipe.balance_weight) == (60, 0.3, 100)
    assert recipe.classifier_lr_scale == 1
    flip = "both" if name.endswith("flips_added") else "random"
    assert (recipe.normalize, recipe.flip, recipe.schedule, recipe.lr_factor) == ("mean", flip, "step", 0.1)


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_the_head_of_a_recipe_says(name):
    recipe, text = load_recipe(name), recipe_text(name)
    said = dict(re.findall(r"^# ([a-z ]+): +(.*)$", text, re.M))
    places = name.startswith("places365/")
    classes, images = (365, 1_803_460) if places else (1000, 1_281_167)
    found = card(recipe.model, recipe.image_size, classes)
    assert said["parameters"].startswith(f"{found.parameters:,} (with {classes} classes)")
    assert said["operations"].startswith(f"{found.gflops:.2f} GFLOPs per image")
    seen = recipe.total_epochs * images * (2 if recipe.flip == "both" else 1)
    assert said["images seen"].startswith(f"{seen / 1e6:.0f} million")
    assert said["cost"] == "not measured"
    row = [
        r for r in RESULTS
        if (r.model, r.dataset != IMAGENET64, bool(r.note)) == (recipe.model, places, recipe.flip == "both")
    ]  # fmt: skip
    assert f"{row[0].top1:.2f} / " in said["published error"] if row else "none" in said["published error"]
    if row and row[0].released:
        assert f"released weights {row[0].released[0]:.2f}" in said["published error"]


@pytest.mark.parametrize("name", FULL_SIZE)
def test_schedules_of_isqrt_cov(name):
    """As in its authors' scripts, `trainingFromScratch/train.sh` and `finetune/finetune.sh`."""
    recipe = load_recipe(name)
    if name.startswith("imagenet224/"):
        assert (recipe.epochs, recipe.lr, recipe.batch_size, recipe.image_size) == ([30, 15, 15, 5], 0.1, 160, 224)
    else:
        assert (recipe.epochs, recipe.lr, recipe.batch_size, recipe.image_size) == (100, 0.0012, 10, 448)
        assert recipe.classifier_lr_scale == (5 if recipe.head == "sr_sop" else "auto")
    assert (recipe.momentum, recipe.weight_decay, recipe.optimizer) == (0.9, 1e-4, "sgd")
    assert f"{recipe.head}_{recipe.backbone}" == name.split("/")[1]
    assert "# cost:" in recipe_text(name)
    assert "# published" in recipe_text(name)


def test_the_five_backbones_of_the_brief_have_three_heads():
    assert len([name for name in FULL_SIZE if name.startswith("imagenet224/")]) == 15


def test_places_recipes_are_for_100_pixels():
    assert {load_recipe(n).image_size for n in recipe_names() if n.startswith("places365/")} == {100}


def test_the_demo_recipes_differ_in_the_model_alone():
    demo = [load_recipe(n).to_dict() for n in recipe_names() if n.startswith("demo/")]
    for recipe in demo:
        recipe.pop("model")
        recipe.pop("balance_weight")  # of no effect without a gate
    assert all(recipe == demo[0] for recipe in demo)


def test_a_file_is_a_recipe_too(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("model: gap_tiny\nepochs: 3\nlr: 0.5\n")
    recipe = load_recipe(str(file))
    assert (recipe.model, recipe.total_epochs, recipe.epochs_per_rate, recipe.lr) == ("gap_tiny", 3, [3], 0.5)


def test_numbers_as_people_write_them(tmp_path):
    (tmp_path / "x.yaml").write_text("weight_decay: 1e-4\nlr: 1.5e1\nmodel: gap_tiny\n")
    found = load_recipe(str(tmp_path / "x.yaml"))
    assert (found.weight_decay, found.lr) == (1e-4, 15)


def test_round_trip_through_yaml(tmp_path):
    recipe = load_recipe("imagenet64/gm_sop_16_8_wrn36_2")
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe.to_dict()))
    assert load_recipe(str(tmp_path / "r.yaml")) == recipe


def test_unknown_names_list_the_nearest(tmp_path):
    with pytest.raises(UnknownNameError, match=r"Nearest: .*imagenet64/gap_resnet18"):
        load_recipe("imagenet64/gap_resnet19")
    with pytest.raises(UnknownNameError, match="no recipe file"):
        load_recipe(str(tmp_path / "none.yaml"))
    (tmp_path / "r.yaml").write_text("batch_sise: 3\n")
    with pytest.raises(UnknownNameError, match=r"recipe key 'batch_sise'\. Nearest: batch_size"):
        load_recipe(str(tmp_path / "r.yaml"))


LAUGHS = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]\n" for i in range(12))


@pytest.mark.parametrize(
    "text",
    ["[1, 2]", "model: [", "5", "", LAUGHS, "model_args: &a {x: *a}", "epochs: " + "9" * 10**6, "epochs: 10**18",
     "epochs: 1000000000000000000", "num_workers: 1000000", "batch_size: 1000000000000000", "lr: 1:30", "seed: 0x10",
     "nesterov: yes", "model: !!python/name:os.system", "- " * 100_000, "x" * 2**21,
     "lr: 0.1\nlr: 9.0", "lr: !!int ''", "nesterov: !!bool foo", "epochs: !!int 0x" + "f" * 100_000],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_what_is_no_recipe(tmp_path, text):
    (tmp_path / "r.yaml").write_text(text)
    start = time.perf_counter()
    with pytest.raises(ConfigError) as refused:
        load_recipe(str(tmp_path / "r.yaml"))
    assert time.perf_counter() - start < 5
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    "changes",
    [{"lr": 0}, {"batch_size": 1}, {"batch_size": 0}, {"epochs": []}, {"epochs": [0]}, {"epochs": [5, -1]},
     {"epochs": 0}, {"bn_momentum": 0}, {"momentum": -1}, {"stem_scale": 0}, {"weight_decay": -1}, {"lr": "fast"},
     {"lr": None}, {"lr": float("nan")}, {"weight_decay": float("inf")}, {"batch_size": 2.5}, {"batch_size": True},
     {"schedule": "linear"}, {"flip": "horizontal"}, {"normalize": None}, {"precision": "fp16"}, {"nesterov": "yes"},
     {"model": None}, {"model_args": "top_k"}, {"epochs": "many"}, {"epochs": [1, "x"]}, {"epochs": None},
     {"seed": -1}, {"seed": 2**32}, {"nesterov": True, "momentum": 0}, {"bn_momentum": float("nan")},
     {"warmup_epochs": 1, "schedule": "one_cycle"}, {"warmup_epochs": 60}, {"warmup_epochs": -1}, {"accumulate": 0},
     {"accumulate": 3}, {"accumulate": 256}, {"label_smoothing": 1}, {"ema_decay": 1}, {"mixup": -1}, {"cutmix": -0.1},
     {"crop_padding": 64}, {"randaugment": 31}, {"non_finite": "ignore"}, {"checkpoint_every": -1}, {"compile": "yes"}],
)  # fmt: skip
def test_values_that_cannot_work(changes):
    with pytest.raises(ConfigError, match=f"recipe: .*({next(iter(changes))}|two images)"):
        Recipe(**changes).check()


@pytest.mark.parametrize(
    ("factor", "epochs"), [(1, [40, 10, 5, 5]), (0.5, [20, 5, 3, 2]), (0.1, [4, 1, 1, 0]), (0.001, [1, 0, 0, 0])]
)
def test_a_scaled_recipe_keeps_its_proportions(factor, epochs):
    scaled = Recipe(epochs=[40, 10, 5, 5]).scaled(factor)
    assert scaled.epochs == epochs
    scaled.check()
    warm = Recipe(epochs=30, schedule="cosine", warmup_epochs=6).scaled(factor)
    warm.check()
    assert warm.warmup_epochs == pytest.approx(min(6 * factor, warm.total_epochs / 2))


@pytest.mark.parametrize("factor", [0, -1, float("nan"), float("inf")])
def test_a_scale_that_cannot_work(factor):
    with pytest.raises(ConfigError, match="scale must be positive"):
        Recipe().scaled(factor)


@pytest.mark.parametrize("name", PUBLISHED + FULL_SIZE)
def test_published_recipes_have_no_modern_option(name):
    recipe, plain = load_recipe(name), Recipe()
    modern = ("warmup_epochs", "accumulate", "nesterov", "label_smoothing", "mixup", "cutmix", "crop_padding",
              "randaugment", "sync_batchnorm", "ema_decay", "channels_last", "compile", "precision",
              "non_finite")  # fmt: skip
    assert all(getattr(recipe, key) == getattr(plain, key) for key in modern)
    assert (plain.warmup_epochs, plain.accumulate, plain.label_smoothing, plain.ema_decay) == (0, 1, 0, 0)


def test_a_key_that_an_older_recipe_lacks():
    """It has the value that describes what the version without it did."""
    keys = ("optimizer", "compile", "loader")
    older = {key: value for key, value in Recipe(lr=0.3).to_dict().items() if key not in keys}
    assert Recipe.from_dict(older) == Recipe(lr=0.3)
    kind = field(default="new", metadata={"absent": "as ever"})
    later = make_dataclass("Later", [("way", str, kind)], bases=(Recipe,))
    assert (later.from_dict({}).way, later.from_dict({"way": "x"}).way, later().way) == ("as ever", "x", "new")
    with pytest.raises(UnknownNameError, match="recipe key 'opitmizer'"):
        Recipe.from_dict({"opitmizer": "sgd"})


def test_every_key_is_documented():
    for f in fields(Recipe):
        assert f"{f.name}: " in (Recipe.__doc__ or ""), f.name


def test_the_ledger_has_every_published_row():
    ledger = (Path(__file__).parents[1] / "benchmarks" / "RESULTS.md").read_text()
    for r in RESULTS:
        name = f"`{r.model}`" + (f", {r.note}" if r.note else "")
        errors = " / ".join("-" if e is None else f"{e:.2f}" for e in (r.top1, r.top5))
        released = " / ".join(f"{e:.2f}" for e in r.released) if r.released else "-"
        assert f"| {r.dataset} | {name} | {errors} | {released} |" in ledger
