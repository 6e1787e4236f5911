"""The commands, run in this process through `main`."""

import json
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import numpy as np
import pytest
import torch
from PIL import Image

import gmsop
from compare import GOLDEN
from gmsop.cli import command, command_names, main
from gmsop.cli.printing import free_folder
from gmsop.data import PackedDataset, PackedWriter
from gmsop.engine.messages import warn
from gmsop.ops import kernels
from gmsop.ops.kernel_decisions import Decision, remember
from gmsop.training.task import TrainingTask
from gmsop.weights.model_file import load_model, save_model


def gmsop_(capsys, *words):
    """Exit status, standard output, standard error."""
    try:
        status = main([str(word) for word in words])
    except SystemExit as stop:
        status = stop.code
    streams = capsys.readouterr()
    return status, streams.out, streams.err


@pytest.fixture(scope="module")
def model_file(sample, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    model = gmsop.create_model("gm_sop_4_2_tiny", 10)
    model.pretrained_cfg.update(label_names=PackedDataset(sample, "val").class_names)
    save_model(model, path)
    return path


@pytest.mark.parametrize("name", command_names())
def test_every_command_has_help_with_an_example(name, capsys):
    status, out, _ = gmsop_(capsys, name, "--help")
    assert status == 0
    assert command(name).EXAMPLE in out
    assert command(name).SUMMARY in out


def test_no_command_and_a_wrong_one(capsys):
    for words in ((), ("trian",)):
        status, _, err = gmsop_(capsys, *words)
        assert status == 2
        assert "train" in err


def test_version(capsys):
    status, out, _ = gmsop_(capsys, "--version")
    assert status == 0
    assert out.strip() == f"gmsop {gmsop.__version__}"


def test_models(capsys):
    status, out, _ = gmsop_(capsys, "models", "g*resnet18")
    assert status == 0
    assert "10,352,776" in out
    assert "38.21 / 17.01" in out
    assert "round to 10.4 M; the authors print 10.3 M" in out
    assert "wrn36_2" not in out
    status, out, _ = gmsop_(capsys, "models", "--backbone", "resnet50")
    assert status == 0
    table = {line.split()[0]: line.split() for line in out.splitlines() if line.split()[1:]}
    assert table["gap"][1:6] == ["25,557,032", "8.18", "2048", "23.9,", "4.1"]
    assert table["sr_sop"][3:5] == ["8256", "22.14"]
    status, _, err = gmsop_(capsys, "models", "--backbone", "resnet51")
    assert (status, "unknown timm model 'resnet51'. Nearest: resnet51q, resnet50" in err) == (1, True)
    status, _, err = gmsop_(capsys, "models", "gm_soup")
    assert status == 1
    assert "unknown model 'gm_soup'" in err


def test_info(capsys, monkeypatch, tmp_path):
    status, text, _ = gmsop_(capsys, "info")
    assert status == 0
    assert f"torch        {version('torch')}" in text
    assert "GMSOP_KERNELS=auto" in text
    call, decision = "second_order_pool (images 4)", Decision(True, "", 1.0, 2.0)
    monkeypatch.setenv("GMSOP_CACHE", str(tmp_path))
    remember("A GPU", call, decision)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda, "get_device_name", lambda index: ["A GPU", "Another"][torch.device(index).index or 0]
    )
    monkeypatch.setattr(kernels, "usable", lambda device: device.index == 0)
    status, text, _ = gmsop_(capsys, "info")
    assert status == 0
    assert f"{call}: kernel (kernel 1.000 ms, library path 2.000 ms)" in text
    assert "1 decisions, in" in text
    assert "runs none of the kernels" in text
    monkeypatch.setenv("GMSOP_KERNELS", "maybe")
    assert gmsop_(capsys, "info")[0] == 1


def test_recipes(capsys):
    status, out, _ = gmsop_(capsys, "recipes")
    assert status == 0
    assert "imagenet64/gm_sop_16_8_resnet18" in out.split()
    status, out, _ = gmsop_(capsys, "recipes", "imagenet64/gm_sop_16_8_wrn36_2")
    assert "lr: 0.09" in out
    status, _, err = gmsop_(capsys, "recipes", "imagenet64/gm_sop")
    assert status == 1
    assert "Nearest: imagenet64/gm_sop" in err


def test_train_override_evaluate_resume(small_set, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    words = (
        "train",
        "--recipe",
        "demo/gm_sop_4_2",
        "--data",
        small_set,
        "--out",
        run,
        "--epochs",
        1,
        "--batch_size",
        45,
    )
    asked = (*words, "--model_args.top_k=3")
    status, out, err = gmsop_(capsys, *asked)
    assert status == 0, err
    assert "epoch 1/1" in out
    assert "gate weight per component" in out
    model = load_model(run / "model.safetensors")
    assert model.pool.gate.top_k == 3

    status, out, _ = gmsop_(capsys, "evaluate", run / "model.safetensors", "--data", small_set, "--per_class")
    assert status == 0
    assert "40 images" in out
    assert "SeaLake" in out

    status, _, err = gmsop_(capsys, *words)
    assert status == 1
    assert "already holds a run" in err
    for words, message in (
        ((), "the run is complete, all 1 epochs are done"),
        (("--epochs", 2, "--lr", 1), "epochs 1 -> 2; lr 0.05 -> 1.0"),
    ):
        status, _, err = gmsop_(capsys, "train", "--resume", run, "--data", small_set, *words)
        assert status == 1
        assert message in err

    (run / "model.safetensors").unlink()  # as if killed just before
    status, out, err = gmsop_(capsys, "train", "--resume", run)
    assert status == 0, err
    assert "the run is complete" in out
    again = load_model(run / "model.safetensors").state_dict()
    assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    status, _, err = gmsop_(capsys, *asked)
    assert status == 0, err  # a job that had done its work already


def test_several_machines_need_out(small_set, capsys, monkeypatch):
    words = ("train", "--recipe", "demo/gap", "--data", small_set)
    for variable, more in ((None, ("--num_nodes", 2)), ("TORCHELASTIC_RUN_ID", ()), ("WORLD_SIZE", ())):
        with monkeypatch.context() as patch:
            if variable:
                patch.setenv(variable, "2")
            status, _, err = gmsop_(capsys, *words, *more)
        assert status == 1
        assert "need --out to agree on a folder" in err


def test_every_warning_is_shown(capsys, monkeypatch):
    monkeypatch.setattr(command("models"), "run", lambda args: [warn("the disk is full") for _ in range(2)] and None)
    assert gmsop_(capsys, "models")[2].count("gmsop: warning: the disk is full") == 2


def test_a_folder_of_its_own_for_every_run(small_set, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("gap", "gap-2"):
        status, out, err = gmsop_(capsys, "train", "--recipe", "demo/gap", "--data", small_set, "--epochs", 1)
        assert status == 0, err
        assert f"-> runs/{folder}\n" in out


def test_runs_started_together_get_folders_of_their_own(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(free_folder, [tmp_path / "runs" / "gap"] * 20))
    assert len(set(folders)) == 20
    assert all(folder.is_dir() for folder in folders)


def test_the_last_recipe_named_counts_and_options_are_not_shortened(small_set, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("train", "--recipe", "demo/gap", "--recipe=demo/sr_sop", "--data", "none")
    status, out, _ = gmsop_(capsys, *words)
    assert status == 1
    assert "sr_sop_tiny" in out
    assert not list((tmp_path / "runs").iterdir())  # a run that did not begin leaves nothing
    with pytest.raises(SystemExit):
        main(["train", "--recip", "demo/gap"])
    assert "unknown option '--recip'. Nearest: --recipe" in capsys.readouterr().err


def test_a_packed_set_of_another_size_is_warned_about(model_file, tmp_path, capsys):
    names = load_model(model_file).pretrained_cfg["label_names"]
    with PackedWriter(tmp_path / "set", 32, {"val": 1}, names, "x", "box") as writer:
        writer.add(np.zeros((32, 32, 3), np.uint8), 0)
    status, _, err = gmsop_(capsys, "evaluate", model_file, "--data", tmp_path / "set")
    assert status == 0
    assert "the images have 32 pixels, the model is for 64: a packed set is not resized" in err


def test_images_that_are_gone_are_named(small_set, tmp_path, capsys):
    shutil.copytree(small_set, tmp_path / "set")
    words = ("--data", tmp_path / "set", "--out", tmp_path / "run")
    assert gmsop_(capsys, "train", "--recipe", "demo/gap", "--epochs", 1, *words)[0] == 0
    shutil.rmtree(tmp_path / "set")
    status, _, err = gmsop_(capsys, "train", "--resume", tmp_path / "run", "--epochs", 2)
    assert status == 1
    assert f"its images were in {tmp_path / 'set'}, which is not there any more; pass --data" in err


def test_train_interrupted_and_resumed(small_set, tmp_path, capsys, monkeypatch):
    run, begin = tmp_path / "run", TrainingTask.on_train_epoch_start

    def interrupt(task):
        begin(task)
        if task.current_epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingTask, "on_train_epoch_start", interrupt)
    words = ("train", "--recipe", "demo/gap", "--data", small_set, "--out", run, "--epochs", 2, "--batch_size", 45)
    status, _, err = gmsop_(capsys, *words)
    assert status == 130
    assert f"gmsop: interrupted: go on with: gmsop train --resume {run}" in err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    monkeypatch.setattr(TrainingTask, "on_train_epoch_start", begin)
    starts = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps([starts[0] | {"wandb": "project"}]))
    status, _, err = gmsop_(capsys, "train", "--resume", run)  # logs to where it did, which this machine cannot
    assert status == 1
    assert "--wandb needs the package" in err
    status, out, err = gmsop_(capsys, "train", "--resume", run, "--data", small_set, "--wandb", "")
    assert status == 0, err
    assert "90 images of 10 classes, 40 to validate on" in out
    assert "epoch 2/2" in out
    assert "epoch 1/2" not in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--recipe", "demo/gm_sup"), "unknown recipe 'demo/gm_sup'. Nearest: demo/gm_sop_4_2"),
        (("--model", "gm_sop_tiny", "--epochs", 1), "unknown model 'gm_sop_tiny'. Nearest: "),
        (("--model_args.top_k=9",), "top_k must be between 1 and num_components = 4, got 9"),
        (("--model_args.tpo_k=2",), "model_args has no option 'tpo_k'"),
        (("--model_args.num_classes=2",), "model_args has no option 'num_classes'"),
        (("--model_args.widths=64",), "widths must be a list"),
        (("--seed", -1), "seed must be an integer at least 0"),
        (("--nesterov", "true", "--momentum", 0), "nesterov needs a momentum"),
        (("--data", "x" * 300), "File name too long"),
        (("--data", "/nowhere"), "/nowhere: no such folder"),
        (("--resume", "/nowhere"), "not the folder of a run"),
        (("--lr", 0), "lr must be positive"),
        (("--accelerator", "foo"), "this machine cannot do that: You selected an invalid accelerator"),
        (("--devices", "two"), "--devices must be a number from 1 on, or auto, got 'two'"),
        (("--scale", 0), "the scale must be positive"),
        (("--wandb", "project"), "pip install wandb"),
    ],
)
def test_train_refusals(words, message, tmp_path, capsys):
    status, _, err = gmsop_(capsys, "train", *words, "--out", tmp_path / "x")
    assert status == 1
    assert err.startswith("gmsop: error: ")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("train", "--batch_sise", 3), "unknown option '--batch_sise'. Nearest: --batch_size, "),
        (("train", "--nestrov=true"), "unknown option '--nestrov'. Nearest: --nesterov, "),
        (("evaluate", "x", "--dta", "y"), "unknown option '--dta'. Nearest: --data, "),
        (("train", "--qqqqq", 1), "unknown option '--qqqqq'. Known: --accelerator, "),
    ],
)
def test_an_option_that_does_not_exist(capsys, words, hint):
    status, _, err = gmsop_(capsys, *words)
    assert status == 2
    assert hint in err
    assert err.splitlines()[1:] == [f"all options: gmsop {words[0]} --help"]


def test_wrong_types_on_the_command_line(capsys):
    for words in (("--lr", "fast"), ("--schedule", "linear")):
        status, _, err = gmsop_(capsys, "train", *words)
        assert status == 2
        assert words[0].lstrip("-") in err


def test_predict_goes_on_after_a_bad_image(model_file, tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (80, 70, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"nothing")
    words = ("predict", model_file, tmp_path / "bad.png", tmp_path / "none.png", tmp_path / "good.png", "--top", 3)
    status, out, err = gmsop_(capsys, *words)
    assert status == 1
    assert "bad.png: not an image" in err
    assert "none.png: no such file" in err
    assert "2 of 3 images could not be read" in err
    lines = out.splitlines()
    assert lines[0].endswith("good.png")
    assert len([line for line in lines if "%" in line]) == 3
    assert "components (weight):" in lines[-1]
    status, *_ = gmsop_(capsys, "predict", model_file, tmp_path / "good.png")
    assert status == 0


def test_missing_truncated_and_foreign_checkpoints(model_file, small_set, tmp_path, capsys):
    short = tmp_path / "short.safetensors"
    short.write_bytes(model_file.read_bytes()[:1000])
    other = tmp_path / "three.safetensors"
    save_model(gmsop.create_model("gap_tiny", 3), other)
    for path, message in (
        (tmp_path / "none.safetensors", "no such file"),
        (short, "truncated"),
        (other, "has 10 classes, the model tells 3 apart"),
    ):
        status, _, err = gmsop_(capsys, "evaluate", path, "--data", small_set)
        assert status == 1
        assert message in err


def test_prepare(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / "src" / name).mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (9, 9), (i, 0, 0)).save(tmp_path / "src" / name / f"{i}.png")
    words = ("prepare", "folder", "--source", tmp_path / "src", "--out", tmp_path / "set", "--size", 8)
    status, out, _ = gmsop_(capsys, *words)
    assert status == 0
    assert "8 train, 2 val, 2 classes, 8 x 8 pixels" in out
    assert "train: 4 to 4 images per class" in out
    assert "val: 1 to 1 images per class" in out
    assert json.loads((tmp_path / "set" / "meta.json").read_text())["filter"] == "box"
    status, _, err = gmsop_(capsys, *words)
    assert status == 1
    assert "already exists" in err
    assert gmsop_(capsys, *words, "--overwrite")[0] == 0


def test_options_may_have_hyphens(tmp_path, capsys):
    words = ("prepare", "imagenet", "--source", tmp_path, "--out", tmp_path / "x", "--class-order=alphabet")
    status, _, err = gmsop_(capsys, *words)
    assert status == 1
    assert "class_order is 'release' or 'wordnet', got 'alphabet'" in err


def test_convert(tmp_path, capsys):
    source = GOLDEN / "checkpoints" / "ResNet18-GM-GAP-net-epoch-1.mat"
    status, out, _ = gmsop_(capsys, "convert", source, tmp_path / "m.safetensors")
    assert status == 0
    assert "gm_gap_16_8_resnet18, 1000 classes, 2,333,192 parameters" in out
    assert "not a published file" in out
    assert "RGB mean 122.10 115.90 103.20" in out
    assert load_model(tmp_path / "m.safetensors").num_classes == 1000
    status, _, err = gmsop_(capsys, "convert", source, tmp_path / "m.pt")
    assert status == 1
    assert "must end in .safetensors" in err
    status, _, err = gmsop_(capsys, "convert", tmp_path / "m.safetensors", tmp_path / "n.safetensors")
    assert status == 1
    assert "not a readable MATLAB file" in err


@pytest.mark.slow
def test_demo_in_short(tmp_path, capsys):
    status, out, _ = gmsop_(capsys, "demo", "--from_scratch", "--epochs", 1, "--out", tmp_path / "demo")
    assert status == 0
    for label in ("GAP", "SR-SOP", "GM-SOP"):
        assert (tmp_path / "demo" / label.lower() / "model.safetensors").exists()
    assert (tmp_path / "demo" / "curves.png").exists()
    assert "top-1 error, %" in out
    assert str(tmp_path / "demo" / "curves.png") in out
