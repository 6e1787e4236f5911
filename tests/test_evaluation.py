import csv
import math

import pytest
import torch
from PIL import Image
from tiny import recipe

import gmsop
from gmsop.cli import main
from gmsop.data import FolderDataset, PackedDataset
from gmsop.errors import CheckpointError, ConfigError, DataError
from gmsop.evaluation.error_rates import evaluate, require_share
from gmsop.evaluation.intervals import wilson_interval
from gmsop.training.run import train
from gmsop.weights.model_file import load_model


def test_evaluation_counts(small_set):
    """A model that always answers class 3 errs on all others."""
    model = gmsop.create_model("gap_tiny", 10)
    with torch.no_grad():
        model.fc.weight.zero_()
        model.fc.bias.copy_(torch.tensor([0.0, 0, 0, 5, 4, 3, 2, 1, 0, 0]))
    val = PackedDataset(small_set, "val")
    result = evaluate(model, val, batch_size=7)
    share = (val.labels == 3).mean()
    top5 = ((val.labels >= 3) & (val.labels <= 7)).mean()
    assert result.images == 40
    assert result.top1_error == pytest.approx(100 * (1 - share), abs=1e-4)
    assert result.top5_error == pytest.approx(100 * (1 - top5), abs=1e-4)
    assert result.class_errors == [0.0 if c == 3 else 100.0 for c in range(10)]
    assert result.usage is None


def test_evaluation_leaves_things_as_they_were(small_set):
    model = gmsop.create_model("gap_tiny", 10)
    before = (torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory)
    evaluate(model, PackedDataset(small_set, "val"), precision="64-true")
    after = (torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert before == after


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_image_that_cannot_be_read_is_named_in_one_line(tmp_path, num_workers):
    for name in "ab":
        (tmp_path / "val" / name).mkdir(parents=True)
        (tmp_path / "val" / name / "0.png").write_bytes(b"no image")
    dataset = FolderDataset(tmp_path, "val", 64, ["a", "b"])
    with pytest.raises(DataError) as caught:
        evaluate(gmsop.create_model("gap_tiny", 2), dataset, num_workers=num_workers)
    assert str(caught.value) == f"{tmp_path}/val/a/0.png: not an image, or of an unknown format"


def test_a_loss_that_is_not_finite_shows(small_set):
    model, batches = gmsop.create_model("gap_tiny", 10), []
    model.fc.register_forward_hook(
        lambda _, args, out: out * (math.nan if batches.append(1) or len(batches) == 2 else 1)
    )
    assert not math.isfinite(evaluate(model, PackedDataset(small_set, "val"), batch_size=10).loss)


def test_the_precision_is_the_one_asked_for(small_set):
    """Of the last layer's result; on a CPU Lightning itself knows no float16."""
    model, val, seen = gmsop.create_model("gm_sop_4_2_tiny", 10), PackedDataset(small_set, "val"), []
    model.fc.register_forward_hook(lambda _, args, out: seen.append(out.dtype))
    expected = evaluate(model, val).loss
    for precision, dtype in (("16-mixed", torch.float16), ("bf16-mixed", torch.bfloat16), ("64-true", torch.float64)):
        seen.clear()
        assert evaluate(model, val, precision=precision).loss == pytest.approx(expected, rel=0.02)
        assert set(seen) == {dtype}


def test_evaluation_refuses_what_does_not_fit(small_set):
    val = PackedDataset(small_set, "val")
    with pytest.raises(DataError, match="has 10 classes, the model tells 3 apart"):
        evaluate(gmsop.create_model("gap_tiny", 3), val)
    with pytest.raises(DataError, match="takes 1 channels"):
        evaluate(gmsop.create_model("gap_tiny", 10, in_chans=1), val)
    model = gmsop.create_model("gap_tiny", 10)
    model.pretrained_cfg["label_names"] = [*val.class_names[:8], val.class_names[9], val.class_names[8]]
    with pytest.raises(DataError, match="has a class 'River' where the model knows 'SeaLake'"):
        evaluate(model, val)
    for wrong in ({"batch_size": 0}, {"num_workers": -1}, {"precision": "16-true"}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            evaluate(gmsop.create_model("gap_tiny", 10), val, **wrong)
    with pytest.raises(ConfigError, match="batch_size"):
        evaluate(gmsop.create_model("gap_tiny", 10), val, batch_size=0)


def test_a_rank_without_an_image_would_wait_for_ever(small_set):
    val = PackedDataset(small_set, "val")
    with pytest.raises(DataError, match="40 images of 'val' cannot be shared by 41 devices"):
        require_share(val, 41)


@pytest.mark.parametrize(("percent", "count", "low", "high"), [(0, 10, 0, 27.75), (10, 500, 7.67, 12.94)])
def test_wilson_interval(percent, count, low, high):
    """By hand: centre (p + z^2 / 2n) and half width z sqrt(p q / n + z^2 / 4n^2), both over 1 + z^2 / n."""
    assert wilson_interval(percent, count) == pytest.approx((low, high), abs=5e-3)


def test_no_images_no_interval():
    assert all(map(math.isnan, wilson_interval(0, 0)))


def test_confusion_and_usage(small_set):
    model = gmsop.create_model("gm_sop_4_2_tiny", 10).eval()
    val = PackedDataset(small_set, "val")
    model.pretrained_cfg.update(mean=(0.3, 0.4, 0.4), std=(0.2, 0.1, 0.1))
    result = evaluate(model, val, batch_size=7)
    confusion = torch.zeros(10, 10, dtype=torch.long)
    weight, chosen, entropy = torch.zeros(10, 4), torch.zeros(10, 4, dtype=torch.long), []
    mean, std = torch.tensor(model.pretrained_cfg["mean"]), torch.tensor(model.pretrained_cfg["std"])
    for image, label in val:
        pixels = ((torch.tensor(image) / 255 - mean) / std).permute(2, 0, 1)[None]
        with torch.no_grad():
            logits, routing = model(pixels, return_routing=True)
        confusion[label, logits.argmax()] += 1
        weight[label] += routing.dense[0]
        chosen[label, routing.indices[0]] += 1
        entropy.append(-(routing.gates * routing.gates.log()).sum().item())
    assert torch.equal(result.confusion, confusion)
    assert torch.equal(result.usage.chosen, chosen)
    assert torch.allclose(result.usage.weight, weight, atol=1e-4)
    assert result.usage.entropy == pytest.approx(sum(entropy) / 40, rel=1e-4)
    assert result.usage.dead == [i for i in range(4) if chosen[:, i].sum() == 0]
    assert result.usage.load == pytest.approx((weight.sum(0) / 40).tolist(), rel=1e-4)
    assert result.seconds > 0


@pytest.fixture(scope="module")
def averaged(small_set, tmp_path_factory):
    """A run with an average of the weights."""
    return train(recipe(ema_decay=0.9), small_set, tmp_path_factory.mktemp("ema") / "run").folder


def test_what_the_command_writes(averaged, small_set, tmp_path, capsys):
    words = ["evaluate", averaged / "last.ckpt", "--data", small_set, "--class_csv", tmp_path / "c.csv",
             "--confusion", tmp_path / "m.csv"]  # fmt: skip
    assert main([str(word) for word in words]) == 0
    out = capsys.readouterr().out
    assert "95 % interval" in out
    assert "images/s" in out
    with (tmp_path / "m.csv").open(newline="") as file:
        header, *matrix = csv.reader(file)
    with (tmp_path / "c.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert header[1:] == [row[0] for row in matrix] == [row["class"] for row in rows]
    counts = [[int(n) for n in row[1:]] for row in matrix]
    assert sum(map(sum, counts)) == 40
    for i, row in enumerate(rows):
        assert int(row["images"]) - int(row["errors"]) == counts[i][i]
        if row["most_often_taken_for"]:
            others = [n for j, n in enumerate(counts[i]) if j != i]
            assert counts[i][header.index(row["most_often_taken_for"]) - 1] == max(others)
    errors = sum(int(row["errors"]) for row in rows)
    assert f"top-1 error {100 * errors / 40:.2f} %" in out
    assert main([str(word) for word in words]) == 1
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert main([*map(str, words[:4]), f"--class_csv={tmp_path / 'n.csv'}", f"--confusion={tmp_path / 'n.csv'}"]) == 1
    assert "both name" in capsys.readouterr().err
    (tmp_path / "names.txt").write_text("x\n")
    assert main([*map(str, words[:4]), "--folder_names", str(tmp_path / "names.txt")]) == 1
    assert "a packed set names its classes itself" in capsys.readouterr().err


def test_with_the_average_of_the_weights_or_without(averaged, small_set):
    val = PackedDataset(small_set, "val")
    with_average = evaluate(load_model(averaged / "last.ckpt"), val)
    without = evaluate(load_model(averaged / "last.ckpt", averaged=False), val)
    assert with_average.loss != without.loss
    with pytest.raises(CheckpointError, match="holds one set of weights"):
        load_model(averaged / "model.safetensors", averaged=False)


def test_a_folder_of_images_is_evaluated_like_the_packed_set(averaged, small_set, tmp_path, capsys):
    val = PackedDataset(small_set, "val")
    for i, (image, label) in enumerate(val):
        folder = tmp_path / "photos" / "val" / val.class_names[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
    model = load_model(averaged / "model.safetensors")
    names = model.pretrained_cfg["label_names"]
    found = evaluate(model, FolderDataset(tmp_path / "photos", "val", 64, names), num_workers=2)
    expected = evaluate(model, val)
    assert torch.equal(found.confusion, expected.confusion)
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    words = ["evaluate", str(averaged / "model.safetensors"), "--data"]
    assert main([*words, str(tmp_path / "photos")]) == 0
    assert f"top-1 error {expected.top1_error:.2f} %" in capsys.readouterr().out
    for split in ("train", "tset"):
        assert main([*words, str(tmp_path / "photos"), "--split", split]) == 1
        assert f"no split '{split}'; there is val" in capsys.readouterr().err
    (tmp_path / "photos" / "val").rename(tmp_path / "photos" / "test")  # where there are no others to judge on
    assert main([*words, str(tmp_path / "photos")]) == 0
    assert f"top-1 error {expected.top1_error:.2f} %" in capsys.readouterr().out
    assert main([*words, str(tmp_path / "photos" / "test"), "--split", "tset"]) == 1
    assert "no split 'tset'; there is none" in capsys.readouterr().err
    (tmp_path / "photos" / "test").rename(tmp_path / "photos" / "val")
    (tmp_path / "photos" / "val" / "Moon").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "photos" / "val" / "Moon" / "x.png")
    assert main([*words, str(tmp_path / "photos")]) == 1
    assert "the model knows no class named Moon" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "photos" / "val" / "River")]) == 1
    assert "neither a packed set nor a folder of images" in capsys.readouterr().err


def test_an_image_that_cannot_be_decoded_is_named(averaged, tmp_path, capsys):
    assert main(["evaluate", str(averaged / "model.safetensors"), "--data", "table.csv"]) == 1
    assert "gmsop prepare makes one of a table" in capsys.readouterr().err
    (tmp_path / "River").mkdir()
    (tmp_path / "River" / "bad.png").write_bytes(b"x")
    assert main(["evaluate", str(averaged / "model.safetensors"), "--data", str(tmp_path)]) == 1
    assert "bad.png: not an image" in capsys.readouterr().err
