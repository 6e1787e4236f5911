"""Training on photographs of any size: order, resume and ranks; what is frozen; starting weights; bad input."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from photos import CLASSES, make_photos, pixels
from PIL import Image
from tiny import same, weights

import gmsop
from gmsop.cli import main
from gmsop.data import train_loader
from gmsop.data.data_options import DataOptions
from gmsop.data.preprocess import Preprocess
from gmsop.data.training_images import find_training_images, held_out
from gmsop.errors import CheckpointError, ConfigError, DataError, DataWarning, UnknownNameError
from gmsop.models import attach
from gmsop.training.first_look import prepare_start
from gmsop.training.image_sets import find_sets, make_sets
from gmsop.training.optimizer import create_optimizer, groups_of, rates_of
from gmsop.training.parameter_groups import freeze, set_learning
from gmsop.training.recipe import Recipe
from gmsop.training.run import train

BACKBONE = "test_resnet"  # timm's own, for tests: 0.4 million parameters


def recipe(**changes) -> Recipe:
    values = {
        "model": "", "backbone": BACKBONE, "head": "gap", "images": "photographs", "image_size": 64, "epochs": 2,
        "batch_size": 6, "lr": 0.01, "normalize": "model", "stem_scale": 1, "num_workers": 0, "color_jitter": 0.4,
    }  # fmt: skip
    return Recipe(**(values | changes))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return make_photos(tmp_path_factory.mktemp("my photos"))


def sets(photos, settings, **options):
    found = find_sets(settings, str(photos), DataOptions(**options), False)
    cfg = gmsop.attach(BACKBONE, "gap", len(found.class_names)).pretrained_cfg
    return make_sets(found, settings, cfg | {"input_size": (3, settings.image_size, settings.image_size)})


# --- the images ---


def test_photographs_stand_upright_in_training_as_in_evaluation(photos):
    settings = recipe(train_crop="none", flip="none", color_jitter=0.0, crop_pct=1.0)
    for part in sets(photos, settings):
        images, labels = part.batch(np.arange(len(part)))
        above, below = images[:, :16].mean((1, 2, 3)), images[:, -16:].mean((1, 2, 3))
        assert (above > below + 20).all()
        assert (images.mean((1, 2)).argmax(1) == labels).all()
    lying, _ = sets(photos, settings, exif_orientation=False)
    images, _ = lying.batch(np.arange(len(lying)))
    assert not (images[:, :16].mean((1, 2, 3)) > images[:, -16:].mean((1, 2, 3)) + 20).all()


def test_an_image_follows_from_seed_epoch_and_number_alone(photos):
    part, _ = sets(photos, recipe(auto_augment="rand-m9-mstd0.5-inc1", color_jitter=0.0))
    rows = np.array([3, 5, 9])
    first, _ = part.batch(rows, 1)
    again, _ = part.batch(rows[::-1], 1)
    other, _ = part.batch(rows, 2)
    assert np.array_equal(first, again[::-1])
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])


def batches(part, epoch, ranks=1, rank=0, workers=0, enter=0, size=6):
    loader = train_loader(part, size // ranks, 7, num_workers=workers, num_replicas=ranks, rank=rank)
    loader.sampler.set_epoch(epoch)
    loader.sampler.enter(epoch, enter)
    return list(loader)


def test_ranks_and_processes_change_no_image(photos):
    part, _ = sets(photos, recipe())
    whole = batches(part, 3)
    halves = [batches(part, 3, 2, rank, workers=1) for rank in range(2)]
    for step, (images, labels) in enumerate(whole):
        joined = torch.stack([halves[rank][step][0] for rank in range(2)], 1).flatten(0, 1)
        assert torch.equal(joined, images)
        assert torch.equal(torch.stack([halves[rank][step][1] for rank in range(2)], 1).flatten(), labels)
    entered = batches(part, 3, enter=12)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(entered, whole[2:], strict=True))


def test_an_epoch_shows_each_image_once(photos):
    part, _ = sets(photos, recipe(train_crop="none", color_jitter=0.0, flip="none"))
    seen = torch.cat([images for images, _ in batches(part, 1)])
    wanted, _ = part.batch(np.arange(len(part)))
    assert sorted(x.numpy().tobytes() for x in seen) == sorted(x.tobytes() for x in wanted)


# --- the sources ---


def test_a_share_is_held_out_of_each_class(tmp_path):
    make_photos(tmp_path / "x", 10, ("train",))
    found = find_training_images(str(tmp_path / "x" / "train"), DataOptions())
    assert found.held_out
    assert np.bincount(found.val.labels).tolist() == [2, 2, 2]
    assert not set(found.train.names) & set(found.val.names)
    again = find_training_images(str(tmp_path / "x" / "train"), DataOptions())
    other = find_training_images(str(tmp_path / "x" / "train"), DataOptions(split_seed=1))
    assert again.val.names == found.val.names != other.val.names
    assert again.fingerprint == found.fingerprint == other.fingerprint


def test_held_out_never_takes_the_last_image():
    chosen = held_out(np.array([0, 0, 0, 0, 1, 1, 2]), 0.2, 0)
    assert [int(chosen[np.array([0, 0, 0, 0, 1, 1, 2]) == i].sum()) for i in range(3)] == [1, 1, 0]
    assert held_out(np.repeat([0, 1], 10), 0.95, 0).sum() == 18


def test_a_class_map_gives_the_order(photos, tmp_path):
    (tmp_path / "map.txt").write_text("ün\na cat\nDog\n")
    found = find_training_images(str(photos), DataOptions(class_map=str(tmp_path / "map.txt")))
    assert found.class_names == ["ün", "a cat", "Dog"]
    usual = find_training_images(str(photos), DataOptions())
    assert [found.class_names[i] for i in found.train.labels] == [usual.class_names[i] for i in usual.train.labels]


def test_named_splits_and_other_places(photos, tmp_path):
    shutil.copytree(photos / "val", tmp_path / "elsewhere")
    shutil.copytree(photos, tmp_path / "all")
    (tmp_path / "all" / "val").rename(tmp_path / "all" / "mine")
    by_name = find_training_images(str(tmp_path / "all"), DataOptions(val_split="mine"))
    by_place = find_training_images(str(photos / "train"), DataOptions(val_data=str(tmp_path / "elsewhere")))
    usual = find_training_images(str(photos), DataOptions())
    for found in (by_name, by_place):
        assert (len(found.train), len(found.val), found.held_out) == (len(usual.train), len(usual.val), False)
        assert found.val.labels.tolist() == usual.val.labels.tolist()


def test_a_tar_file_is_a_source(photos, tmp_path):
    shutil.make_archive(str(tmp_path / "photos"), "tar", photos / "train")
    found = find_training_images(str(tmp_path / "photos.tar"), DataOptions())
    assert (sorted(found.class_names), found.held_out) == (sorted(CLASSES), True)
    assert len(found.train) + len(found.val) == 24
    assert not list(tmp_path.glob("*.pickle"))
    settings = recipe()
    part = make_sets(find_sets(settings, str(tmp_path / "photos.tar"), DataOptions(), False), settings,
                     gmsop.attach(BACKBONE, "gap", 3).pretrained_cfg | {"input_size": (3, 64, 64)})[0]  # fmt: skip
    part.batch(np.arange(2))  # opens the file here, before processes are forked
    forked, here = batches(part, 0, workers=2), batches(part, 0)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(forked, here, strict=True))


# --- a run ---


def test_a_run_stopped_within_an_epoch_ends_with_the_same_bits(photos, tmp_path):
    settings = recipe(head="sr_sop", random_erasing=0.5, mixup=0.2, checkpoint_every=1, ema_decay=0.9)
    whole = train(settings, photos, tmp_path / "whole")
    from gmsop.training.task import TrainingTask

    original, count = TrainingTask.on_train_batch_start, [0]

    def stop(task, batch, index):
        count[0] += 1
        if count[0] == 7:
            raise RuntimeError("pulled the plug")
        original(task, batch, index)

    TrainingTask.on_train_batch_start = stop
    try:
        with pytest.raises(RuntimeError, match="pulled the plug"):
            train(settings, photos, tmp_path / "stopped")
    finally:
        TrainingTask.on_train_batch_start = original
    train(settings, photos, tmp_path / "stopped", resume=tmp_path / "stopped")
    assert same(weights(whole.folder), weights(tmp_path / "stopped"))
    assert (whole.folder / "metrics.csv").read_text() == (tmp_path / "stopped" / "metrics.csv").read_text()


def test_what_a_run_leaves_and_how_others_see_photographs(photos, tmp_path, capsys):
    run = train(recipe(crop_pct=0.9), photos, tmp_path / "run")
    for name in ("augmented.png", "learning_rate.png", "parameters.txt", "model.safetensors"):
        assert (run.folder / name).stat().st_size > 0
    model = gmsop.load_model(run.folder)
    cfg = model.pretrained_cfg
    assert (cfg["crop_mode"], cfg["crop_pct"], cfg["input_size"]) == ("center", 0.9, (3, 64, 64))
    assert cfg["label_names"] == sorted(CLASSES)
    assert main(["evaluate", str(run.folder), "--data", str(photos)]) == 0
    assert f"top-1 error {run.best_top1_error:.2f} %" in capsys.readouterr().out
    assert main(["predict", str(run.folder), str(next((photos / "val" / "Dog").iterdir()))]) == 0
    assert main(["report", str(run.folder), "--out", str(tmp_path / "page.html")]) == 0
    assert "as the network sees them" in (tmp_path / "page.html").read_text()


def test_the_command_resumes_with_its_own_data(photos, tmp_path, capsys):
    words = ["train", "--backbone", BACKBONE, "--head", "sr_sop", "--pretrained", "false", "--image_size", "64",
             "--data", str(photos / "train"), "--val_share", "0.5", "--epochs", "2", "--warmup_epochs", "0",
             "--num_workers", "0", "--batch_size", "6", "--out", str(tmp_path / "run")]  # fmt: skip
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "12 images of 3 classes, 12 to validate on, held out of them" in said
    assert "norms and biases" in said
    assert len((tmp_path / "run" / "held_out.txt").read_text().splitlines()) == 12
    start = json.loads((tmp_path / "run" / "environment.json").read_text())[0]
    assert start["data_options"] == {"val_share": 0.5}
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(photos / "train")]) == 0
    warned = capsys.readouterr().err
    assert "the model learned from 12 of these images" in warned
    assert "held_out.txt names the 12 that" in warned
    assert main(["train", "--resume", str(tmp_path / "run"), "--epochs", "3", "--allow_changes"]) == 0
    assert yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["epochs"] == 3
    assert "12 to validate on" in capsys.readouterr().out


def test_a_packed_set_is_the_fast_lane(photos, tmp_path):
    assert main(["prepare", "folder", "--source", str(photos), "--out", str(tmp_path / "set"), "--size", "72"]) == 0
    run = train(recipe(epochs=1), tmp_path / "set", tmp_path / "run")
    assert run.result.images == 12


def test_a_file_that_is_no_image(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "x")
    bad = tmp_path / "x" / "train" / "Dog" / "broken.jpg"
    bad.write_bytes(b"no image")
    (tmp_path / "x" / "val" / "Dog" / "broken too.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="broken"):
        train(recipe(epochs=1), tmp_path / "x", tmp_path / "stops")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run = train(recipe(epochs=1), tmp_path / "x", tmp_path / "skips", data_options=DataOptions(on_error="skip"))
    texts = [str(each.message) for each in said]
    assert sum("broken.jpg: not an image" in text and "another image" in text for text in texts) == 1
    assert any("broken too.jpg" in text for text in texts)
    assert any("1 images to validate on cannot be read" in text for text in texts)
    assert (run.result.images, len(run.result.skipped)) == (12, 1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 20_000), (20_000, 30)])
def test_images_of_odd_shapes(shape, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "x")
    for split in ("train", "val"):
        Image.new("RGB", shape).save(tmp_path / "x" / split / "Dog" / "odd.png")
    assert train(recipe(epochs=1), tmp_path / "x", tmp_path / "run").result.images == 13


# --- starting weights ---


@pytest.fixture(scope="module")
def first(photos, tmp_path_factory) -> Path:
    settings = recipe(head="sr_sop", model_args={"reduced_dim": 16}, epochs=1)
    return train(settings, photos, tmp_path_factory.mktemp("first") / "run").folder


def plan(settings, photos, out, capsys=None):
    from gmsop.training.plan import make_plan

    return make_plan(settings, str(photos), out, None, False, False, DataOptions())


def test_init_takes_all_of_a_model_of_the_same_classes(first, photos, tmp_path):
    made = plan(recipe(head="sr_sop", model_args={"reduced_dim": 16}, init=str(first)), photos, tmp_path / "x")
    assert same(made.model.state_dict(), gmsop.load_model(first).state_dict())
    assert "the classifier" in made.start.lines[0]
    assert "new" not in made.start.lines[0]


def test_init_makes_a_classifier_for_other_classes_anew(first, tmp_path):
    make_photos(tmp_path / "x")
    (tmp_path / "x" / "train" / "Dog").rename(tmp_path / "x" / "train" / "Wolf")
    (tmp_path / "x" / "val" / "Dog").rename(tmp_path / "x" / "val" / "Wolf")
    settings = recipe(head="sr_sop", model_args={"reduced_dim": 16}, init=str(first / "model.safetensors"))
    made = plan(settings, tmp_path / "x", tmp_path / "out")
    assert "the classifier is new (other classes)" in made.start.lines[0]
    assert made.start.sha256
    before = gmsop.load_model(first)
    assert same(made.model.backbone.state_dict(), before.backbone.state_dict())
    assert not torch.equal(made.model.fc.weight, before.fc.weight)


def test_init_names_what_is_new_and_what_is_left_over(first, photos, tmp_path):
    made = plan(recipe(head="gap", init=str(first)), photos, tmp_path / "x")
    assert "the classifier is new" in made.start.lines[0]
    assert any("left over" in line and "pool." in line for line in made.start.lines)


def test_init_of_another_backbone_is_refused(first, photos, tmp_path):
    with pytest.raises(CheckpointError, match="of another backbone"):
        plan(recipe(backbone="test_efficientnet", init=str(first)), photos, tmp_path / "x")
    with pytest.raises(CheckpointError, match="no such file"):
        plan(recipe(init="nothing.safetensors"), photos, tmp_path / "x")


def test_init_from_plain_tensors_of_timm(photos, tmp_path):
    import timm

    network = timm.create_model(BACKBONE, num_classes=7)
    torch.save(network.state_dict(), tmp_path / "net.pth")
    made = plan(recipe(init=str(tmp_path / "net.pth")), photos, tmp_path / "x")
    found = made.model.backbone.model.state_dict()
    assert all(torch.equal(found[name], network.state_dict()[name]) for name in found)
    assert any("left over" in line for line in made.start.lines)


def test_a_run_from_starting_weights_goes_on_without_them(first, photos, tmp_path):
    shutil.copytree(first, tmp_path / "start")
    settings = recipe(head="sr_sop", model_args={"reduced_dim": 16}, init=str(tmp_path / "start"), epochs=2)
    train(settings, photos, tmp_path / "run")
    for name in ("last.ckpt", "best.ckpt"):
        (tmp_path / "run" / name).unlink()
    shutil.rmtree(tmp_path / "start")
    again = train(settings, photos, tmp_path / "run", resume=tmp_path / "run")
    assert again.result.images == 12


# --- what learns ---


def a_model():
    torch.manual_seed(0)
    return attach(BACKBONE, "sr_sop", 3)


def test_stages_are_frozen_with_their_statistics():
    model = a_model()
    frozen = freeze(model, recipe(freeze="stages:2"))
    names = {name for name, _ in frozen}
    assert {n.split(".")[2] for n in names} == {"conv1", "bn1", "layer1", "layer2"}
    before = {k: v.clone() for k, v in model.state_dict().items()}
    set_learning(model, recipe(freeze="stages:2"), [p for _, p in frozen], 0)
    optimizer = create_optimizer(model, recipe(freeze="stages:2"))
    model(torch.randn(4, 3, 64, 64)).square().mean().backward()
    optimizer.step()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert not {k for k in changed if k.split(".")[2:3] in (["conv1"], ["bn1"], ["layer1"], ["layer2"])}


def test_the_backbone_learns_from_an_epoch_on(photos, tmp_path):
    settings = recipe(freeze="backbone", unfreeze_epoch=1, epochs=2, checkpoint_every=0)
    train(settings, photos, tmp_path / "run")
    fresh = plan(settings, photos, tmp_path / "x").model.backbone.state_dict()
    after_one = weights(tmp_path / "run", "previous.ckpt")
    after_two = weights(tmp_path / "run", "last.ckpt")
    assert all(torch.equal(after_one[f"backbone.{k}"], v) for k, v in fresh.items())
    assert not all(torch.equal(after_two[f"backbone.{k}"], v) for k, v in fresh.items())


def test_frozen_batchnorm_keeps_its_statistics():
    model = a_model()
    set_learning(model, recipe(frozen_batchnorm=True), [], 0)
    before = {k: v.clone() for k, v in model.named_buffers()}
    model(torch.randn(4, 3, 64, 64)).sum().backward()
    assert all(torch.equal(v, before[k]) for k, v in model.named_buffers() if k.startswith("backbone."))
    assert model.backbone.model.bn1.weight.grad is not None


def test_rates_fall_from_layer_to_layer_as_timms():
    from timm.optim import param_groups_layer_decay

    model, settings = a_model(), recipe(layer_decay=0.7, head_lr_scale=3, weight_decay=0.05,
                                        decay_norms_and_biases=False, classifier_lr_scale=0.5)  # fmt: skip
    theirs = {id(p): g for g in param_groups_layer_decay(model, 0.05, model.no_weight_decay(), layer_decay=0.7)
              for p in g["params"]}  # fmt: skip
    names = {id(p): name for name, p in model.named_parameters()}
    found = {id(p): rates_of(part, settings) for part in groups_of(create_optimizer(model, settings))
             for p in part.params}  # fmt: skip
    assert set(found) == set(names)
    for key, rates in found.items():
        share = 1.0 if names[key].startswith("backbone.") else 3 * (0.5 if names[key].startswith("fc.") else 1)
        assert rates["lr"] == pytest.approx(0.01 * theirs[key]["lr_scale"] * share)
        assert rates["weight_decay"] == theirs[key]["weight_decay"]
    assert rates_of(groups_of(create_optimizer(model, settings))[0], settings)["lr"] < 0.01


@pytest.mark.parametrize("name", ["muon", "lamb", "adamw"])
def test_timms_optimizers_fine_tune(name, photos, tmp_path):
    settings = recipe(optimizer=name, lr=1e-3, epochs=1, clip_grad_norm=1.0, grad_checkpointing=True, head="gm_sop",
                      model_args={"num_components": 4, "top_k": 2}, layer_decay=0.8)  # fmt: skip
    assert train(settings, photos, tmp_path / "run").result.images == 12


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lamb"])
def test_auto_keeps_the_classifiers_rate_below_the_limit(optimizer, photos, tmp_path, capsys):
    settings = recipe(head="gm_sop", model_args={"num_components": 4, "top_k": 2}, classifier_lr_scale="auto", lr=0.1,
                      optimizer=optimizer, epochs=2, checkpoint_every=1, head_lr_scale=2)  # fmt: skip
    made = plan(settings, photos, tmp_path / "x")
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    share = prepare_start(made, torch.device("cpu"), None)
    assert same(made.model.state_dict(), before)
    if optimizer == "lamb":
        assert share == 1
        assert "is not known" in capsys.readouterr().out
        return
    assert f"classifier_lr_scale auto: {share:.3g}" in capsys.readouterr().out
    rows = torch.randperm(24, generator=torch.Generator().manual_seed(0)).numpy()
    images = torch.from_numpy(made.train_set.batch(rows)[0])
    made.model.train().drop.eval()
    torch.manual_seed(0)
    inputs = Preprocess.of(made.model.pretrained_cfg).input(images)
    x = made.model.forward_head(made.model.forward_features(inputs), pre_logits=True)
    # By hand: a quarter of 2 (1 + momentum) classes / E|x|^2; a step that changes a logit by 1.
    limit = 2 * 1.9 * 3 / x.square().sum(1).mean() / 4 if optimizer == "sgd" else 1 / x.abs().sum(1).mean()
    assert 0.1 * 2 * share == pytest.approx(limit.item(), rel=0.02)  # which components ties go to is random


def test_auto_stays_what_it_was_when_a_run_goes_on(photos, tmp_path):
    settings = recipe(head="gm_sop", model_args={"num_components": 4, "top_k": 2}, classifier_lr_scale="auto", lr=0.1,
                      epochs=2, checkpoint_every=1)  # fmt: skip
    run = train(settings, photos, tmp_path / "run")
    share = torch.load(run.folder / "last.ckpt", weights_only=True)["gmsop"]["classifier_share"]
    whole = weights(run.folder)
    for name in ("last.ckpt", "best.ckpt"):
        (run.folder / name).unlink()
    train(settings, photos, run.folder, resume=run.folder)
    assert torch.load(run.folder / "last.ckpt", weights_only=True)["gmsop"]["classifier_share"] == share < 1
    assert same(weights(run.folder), whole)


# --- bad input ---


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"freeze": ["layer9"]}, UnknownNameError, "no module 'layer9'; there are layer"),
        ({"freeze": "stages:9"}, ConfigError, "the backbone has 4"),
        ({"freeze": "stages:x"}, ConfigError, "no number of stages"),
        ({"image_size": 4, "head": "sr_sop"}, ConfigError, "1 x 1 position, of which there is no covariance"),
        ({"backbone": "test_vit", "image_size": 100}, ConfigError, "does not take images of 100 x 100"),
        ({"backbone": "resnet5"}, UnknownNameError, "resnet50"),
        ({"head": "sr_shop"}, UnknownNameError, "sr_sop"),
        ({"auto_augment": "nonsense", "color_jitter": 0.0}, ConfigError, "timm cannot make this augmentation"),
        ({"interpolation": "cubic"}, ConfigError, "interpolation"),
        ({"normalize": "mean"}, ConfigError, "normalize: model"),
        ({"stem_scale": 60}, ConfigError, "stem_scale"),
        ({"crop_padding": 2}, ConfigError, "for images: squares"),
        ({"pretrained": True, "init": "x"}, ConfigError, "give one of them"),
        ({"unfreeze_epoch": 1}, ConfigError, "nothing is frozen"),
        ({"crop_scale": [1.0, 0.5]}, ConfigError, "two numbers"),
        ({"color_jitter": 0.1, "auto_augment": "original"}, ConfigError, "no effect"),
        ({"model": "gap_tiny"}, ConfigError, "a model, or a backbone"),
        ({"head": ""}, ConfigError, "wants a head"),
    ],
)
def test_recipes_that_cannot_work(changes, error, text, photos, tmp_path):
    with pytest.raises(error, match=text):
        plan(recipe(**changes), photos, tmp_path / "x")


def test_a_recipe_for_packed_sets_with_a_folder_and_the_reverse(photos, tmp_path):
    with pytest.raises(DataError, match="is no packed set, and the recipe trains on packed sets of 64 pixels"):
        train(Recipe(model="gap_tiny"), photos, tmp_path / "x")
    with pytest.raises(DataError, match="is a packed set of 64 pixels, the recipe is for photographs of 224"):
        train(recipe(image_size=224), gmsop.data.sample_path(), tmp_path / "x")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda x: shutil.rmtree(x / "val"), None),
        (lambda x: [shutil.rmtree(x / s / n) for s in ("train", "val") for n in CLASSES[:2]], "1 class"),
        (lambda x: shutil.rmtree(x / "train" / "Dog"), "no training image of class Dog"),
        (lambda x: [f.unlink() for f in (x / "train" / "Dog").iterdir()], "no image .* in Dog"),
        (shutil.rmtree, "no such folder"),
    ],
)
def test_folders_that_cannot_work(change, text, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "x")
    change(tmp_path / "x")
    if text is None:
        assert find_training_images(str(tmp_path / "x"), DataOptions()).held_out
        return
    with pytest.raises(DataError, match=text):
        find_training_images(str(tmp_path / "x"), DataOptions())


def test_a_class_of_one_image_is_said(photos, tmp_path):
    shutil.copytree(photos / "train", tmp_path / "x")
    for file in sorted((tmp_path / "x" / "Dog").iterdir())[1:]:
        file.unlink()
    with pytest.warns(DataWarning, match="no image to validate on of class Dog, which has a single one"):
        find_training_images(str(tmp_path / "x"), DataOptions())


def test_pretrained_weights_without_a_network(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # else it tries for most of a minute
    with pytest.raises(ConfigError, match="cannot be had"):
        plan(recipe(backbone="resnet18.a1_in1k", pretrained=True, image_size=64), photos, tmp_path / "x")


@pytest.mark.parametrize(
    "options", [{"val_share": 1.5}, {"on_error": "never"}, {"data_dir": "x"}, {"val_split": "nowhere"},
                {"class_map": "missing.txt"}, {"val_data": "nowhere"}]
)  # fmt: skip
def test_options_of_data_that_cannot_be(options, photos):
    with pytest.raises((ConfigError, DataError)):
        find_training_images(str(photos), DataOptions(**options))


def test_pixels_are_brighter_above():
    """What the tests of orientation rest on."""
    assert pixels(0, 0)[:8].mean() > pixels(0, 0)[-8:].mean() + 40
