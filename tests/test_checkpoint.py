import json
import resource
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import save_file

import gmsop
from gmsop.errors import CheckpointError, ConfigError
from gmsop.models.hub import from_folder_or_hub
from gmsop.weights.model_file import describe, load_model, load_state, save_model


def test_round_trip(tmp_path):
    model = gmsop.create_model("gm_sop_4_2_tiny", 6, top_k=3, gate_dims=(16, 8)).eval()
    model.pretrained_cfg.update(mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5), label_names=list("abcdef"))
    save_model(model, tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(again(x), model(x))
    assert describe(again) == describe(model)
    assert again.pretrained_cfg["mean"] == (0.1, 0.2, 0.3)
    assert not again.training
    assert (tmp_path / "m.safetensors").stat().st_mode & 0o777 == 0o644
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize(("channels", "dtype"), [(1, torch.float32), (5, torch.float64), (3, torch.float16)])
def test_other_channels_and_precisions(tmp_path, channels, dtype):
    model = gmsop.create_model("gap_tiny", 6, in_chans=channels).to(dtype)
    save_model(model, tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    assert len(again.pretrained_cfg["mean"]) == again.pretrained_cfg["input_size"][0] == channels
    assert {name: value.dtype for name, value in again.state_dict().items()} == {
        name: value.dtype for name, value in model.state_dict().items()
    }


def test_a_new_classifier_forgets_the_names_of_the_classes_before(tmp_path):
    model = gmsop.create_model("gap_tiny", 3)
    model.pretrained_cfg["label_names"] = list("abc")
    for classes in (7, 3):
        model.reset_classifier(classes)
        save_model(model, tmp_path / "m.safetensors")
        again = load_model(tmp_path / "m.safetensors")
        assert (again.num_classes, again.pretrained_cfg.get("label_names")) == (classes, None)


def test_a_compiled_model_is_saved_as_what_it_is(tmp_path):
    model = gmsop.create_model("gap_tiny", 3)
    save_model(torch.compile(model), tmp_path / "m.safetensors")
    assert load_model(tmp_path / "m.safetensors").state_dict().keys() == model.state_dict().keys()


def test_tied_components_are_saved_apart(tmp_path):
    model = gmsop.create_model("gm_gap_4_2_tiny", 3)
    model.pool.components[1].conv.weight = model.pool.components[0].conv.weight
    save_model(model, tmp_path / "m.safetensors")
    first, second = (c.conv.weight for c in load_model(tmp_path / "m.safetensors").pool.components[:2])
    assert torch.equal(first, second)


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    with pytest.raises(ConfigError, match=r"takes a model of gmsop\.create_model or gmsop\.attach, got a Linear"):
        save_model(torch.nn.Linear(2, 2), tmp_path / "m.safetensors")
    model = gmsop.create_model("gap_tiny", 3)
    model.pretrained_cfg["label_names"] = ["a"]
    with pytest.raises(ConfigError, match="label_names must be 3 names"):
        save_model(model, tmp_path / "m.safetensors")
    model = gmsop.create_model("gap_tiny", 3)
    model.fc = torch.nn.Linear(model.fc.in_features, 5)
    with pytest.raises(ConfigError, match=r"not gap_tiny as it was built .* of another shape \(fc\.weight, fc\.bias\)"):
        save_model(model, tmp_path / "m.safetensors")
    model = gmsop.create_model("sr_sop_tiny", 3)
    model.pool.num_iters = 5
    with pytest.raises(ConfigError, match=r"any more: pool\.num_iters is 5"):
        save_model(model, tmp_path / "m.safetensors")
    model = gmsop.create_model("gm_sop_4_2_tiny", 3)
    model.pool.gate.top_k = 3
    with pytest.raises(ConfigError, match=r"any more: pool\.gate\.top_k is 3"):
        save_model(model, tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match=r"a folder without model\.safetensors; name the file in it"):
        load_model(tmp_path)


@pytest.mark.parametrize("kept", [0, 7, 500, -1])
def test_truncated(tmp_path, kept):
    path = tmp_path / "m.safetensors"
    save_model(gmsop.create_model("gap_tiny", 3), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"m\.safetensors: not a safetensors file, or truncated"):
        load_model(path)


def test_missing(tmp_path):
    for name in ("none.safetensors", "none.ckpt"):
        with pytest.raises(CheckpointError, match="no such file"):
            load_model(tmp_path / name)


def test_weights_without_description(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="no description of a gmsop model"):
        load_model(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        {"spec": None},
        {"spec": {"backbone": "resnet_of_another_world"}},
        {"spec": {"head": "sr_sop"}},
        {"spec": {"num_classes": -3}},
        {"spec": {"head_options": None}},
        {"input": 5},
        {"input": {"mean": ["red"] * 3}},
        {"input": {"std": [0, 1, 1]}},
        {"input": {"mean": [0.5]}},
        {"input": {"input_size": [3, 10**9, 64]}},
        {"input": {"label_names": ["a"]}},
        {"spec": {"head_options": {"checkpoint_path": "/etc/passwd"}}},
    ],
)
def test_a_description_that_is_not_ours(tmp_path, change):
    model = gmsop.create_model("gap_tiny", 3)
    description = describe(model)
    for key, value in change.items():
        description[key] = description[key] | value if key == "spec" and value else value
    save_file(model.state_dict(), tmp_path / "m.safetensors", {"gmsop": json.dumps(description)})
    with pytest.raises(CheckpointError, match="description"):
        load_model(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reduced_dim": 10**7}, "of another shape"),
        ({"reduced_dim": 10**30}, "description"),
        ({"hidden_dim": 10**9}, "of another shape"),
        ({"num_components": 10**6}, "far larger network"),
        ({"num_iters": 10**9}, "num_iters must be an integer at least 1 and at most 100"),
        ({"gate_dims": [10**6] * 3}, "left over|missing|another shape"),
    ],
)
def test_a_small_file_cannot_ask_for_a_large_network(tmp_path, options, words):
    model = gmsop.create_model("gm_sop_4_2_tiny", 3)
    description = describe(model)
    description["spec"]["head_options"] |= options
    save_file(model.state_dict(), tmp_path / "m.safetensors", {"gmsop": json.dumps(description)})
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(CheckpointError, match=words):
        load_model(tmp_path / "m.safetensors")
    assert time.perf_counter() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19  # kilobytes


@pytest.mark.parametrize(
    "change", [{"interpolation": ["a"]}, {"crop_pct": "x"}, {"crop_pct": 1e300}, {"input_size": [3, 16384, 16384]},
               {"label_names": [1, 2, 3]}, {"crop_mode": 1}]
)  # fmt: skip
def test_a_preparation_of_images_that_cannot_be(tmp_path, change):
    model = gmsop.create_model("gap_tiny", 3)
    description = describe(model)
    description["input"] |= change
    save_file(model.state_dict(), tmp_path / "m.safetensors", {"gmsop": json.dumps(description)})
    with pytest.raises(CheckpointError, match="description"):
        load_model(tmp_path / "m.safetensors")


def test_numbers_that_no_model_is_in(tmp_path):
    model = gmsop.create_model("gap_tiny", 3)
    state = {k: v.to(torch.float8_e4m3fn) if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file(state, tmp_path / "m.safetensors", {"gmsop": json.dumps(describe(model))})
    with pytest.raises(CheckpointError, match="float8_e4m3fn"):
        load_model(tmp_path / "m.safetensors")


def test_a_folder_for_timm_cannot_ask_for_a_large_network(tmp_path):
    model = gmsop.create_model("gap_tiny", 3)
    model.save_pretrained(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config["architecture"], config["model_args"] = "gm_sop_16_8_wrn36_2", {"reduced_dim": 10**6}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"describes a network of|no model can be read"):
        from_folder_or_hub(tmp_path / "m")


@pytest.mark.parametrize("change", [{"name": "x"}, {"init_args": None}, {"num_classes": -3}, {"init_args": {"lr": 1}}])
def test_a_description_of_version_1_that_is_not_ours(tmp_path, change):
    model = gmsop.create_model("gap_tiny", 3)
    description = {
        "format": "gmsop-model",
        "name": "gap_tiny",
        "num_classes": 3,
        "init_args": {"in_chans": 3},
        "input": {},
    }
    save_file(model.state_dict(), tmp_path / "m.safetensors", {"gmsop": json.dumps(description)})
    load_model(tmp_path / "m.safetensors")
    save_file(model.state_dict(), tmp_path / "m.safetensors", {"gmsop": json.dumps(description | change)})
    with pytest.raises(CheckpointError, match="description"):
        load_model(tmp_path / "m.safetensors")


def test_weights_of_another_model_are_named():
    model, other = gmsop.create_model("gap_tiny", 3), gmsop.create_model("gm_sop_4_2_tiny", 4)
    with pytest.raises(CheckpointError) as caught:
        load_state(model, other.state_dict(), "m.safetensors")
    assert "not those of gap_tiny" in str(caught.value)
    assert "left over (pool.components.0.conv1.weight" in str(caught.value)
    assert "of another shape (fc.weight, fc.bias)" in str(caught.value)


def test_a_hostile_training_checkpoint_runs_nothing(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save({"gmsop": Hostile(), "state_dict": {}}, tmp_path / "m.ckpt")
    with pytest.raises(CheckpointError, match="not a training checkpoint"):
        load_model(tmp_path / "m.ckpt")
    assert not (tmp_path / "owned").exists()


def test_other_files_named_ckpt(tmp_path):
    path = tmp_path / "m.ckpt"
    for data in (b"", b"hello", b"garbage", b"PK\x03\x04 half a zip"):
        path.write_bytes(data)
        with pytest.raises(CheckpointError):
            load_model(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(CheckpointError, match="not a checkpoint of gmsop's training"):
        load_model(path)
    torch.save({"state_dict": {}, "epoch": 0, "gmsop": {"model": None, "recipe": {}}}, path)
    with pytest.raises(CheckpointError, match="description"):
        load_model(path)


FULL = """
import resource, signal, sys, gmsop
from gmsop.weights.model_file import save_model
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
try:
    save_model(gmsop.create_model("gap_tiny", 3), sys.argv[1])
except gmsop.GmsopError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_full_disk_keeps_the_old_file(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True)
    assert "cannot write" in done.stdout, done.stderr
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
