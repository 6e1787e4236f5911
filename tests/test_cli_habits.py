"""What every command has in common: one screen of help, configurations, completion, JSON, quiet and verbose."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

import gmsop
from gmsop.cli import GROUPS, command, command_names, main, overview


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    gmsop.save_model(gmsop.create_model("gap_tiny", num_classes=10), path)
    return str(path)


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "a.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    return str(path)


def test_the_overview_fits_on_a_screen(capsys):
    lines = overview().splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    for name in command_names():
        assert command(name).GROUP in GROUPS
        assert sum(line.startswith(f"  {name} ") for line in lines) == 1
    for words in (["--help"], ["-h"]):
        assert main(words) == 0
        assert capsys.readouterr().out.splitlines() == lines
    assert main([]) == 2


@pytest.mark.parametrize("name", command_names())
def test_every_command_has_help_with_an_example_and_a_configuration(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: gmsop {name}")
    assert f"example:\n  {command(name).EXAMPLE}" in text
    assert "--print_config" in text
    assert command(name).EXAMPLE.startswith(f"gmsop {name}")


def test_training_options_come_in_sections(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    sections = text.split("\nrecipe: ")
    assert len(sections) == 9
    assert "--layer_decay" in next(s for s in sections if s.startswith("the input's scale"))
    assert "--val_share" in sections[0]
    from dataclasses import fields

    from gmsop.training.recipe import Recipe

    for field in fields(Recipe):
        assert sum(f"\n  --{field.name} " in f"\n{section}" for section in sections) == 1, field.name


def test_a_printed_configuration_does_the_same(model_file, photo, tmp_path, capsys):
    words = ["predict", model_file, photo, "--top", "2"]
    with pytest.raises(SystemExit):
        main([*words, "--print_config"])
    config = tmp_path / "c.yaml"
    config.write_text(capsys.readouterr().out)
    assert yaml.safe_load(config.read_text())["top"] == 2
    assert main(words) == 0
    expected = capsys.readouterr().out
    assert main(["predict", "--config", str(config)]) == 0
    assert capsys.readouterr().out == expected
    assert main(["predict", f"--config={config}", "--top", "1"]) == 0
    assert capsys.readouterr().out.count("%") == 1


def test_a_recipe_in_a_configuration_sets_the_defaults(tmp_path, capsys):
    config = tmp_path / "c.yaml"
    config.write_text("recipe: demo/gap\nepochs: 1\n")
    with pytest.raises(SystemExit):
        main(["train", "--config", str(config), "--print_config"])
    found = yaml.safe_load(capsys.readouterr().out)
    from gmsop.training.recipe import load_recipe

    expected = load_recipe("demo/gap").to_dict() | {"epochs": 1}
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("text", "said"), [(None, "cannot be read"), ("[1, 2]", "holds no options"), ("a: [", "not valid YAML")]
)
def test_configurations_that_cannot_be(tmp_path, capsys, text, said):
    config = tmp_path / "c.yaml"
    if text is not None:
        config.write_text(text)
    assert main(["models", "--config", str(config)]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("typed", "expected"),
    [("gmsop pred", "predict"), ("gmsop train --layer_d", "--layer_decay"), ("gmsop evaluate --per", "--per_class")],
)
def test_bash_completes(tmp_path, capsys, typed, expected):
    assert main(["completion", "bash"]) == 0
    (tmp_path / "gmsop.sh").write_text(capsys.readouterr().out)
    place = len(typed.split()) - 1
    script = f"COMP_WORDS=({typed}); COMP_CWORD={place}; source {tmp_path}/gmsop.sh; _gmsop; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [expected]


def test_zsh_and_fish_get_a_script(capsys):
    assert main(["completion", "zsh"]) == 0
    assert "bashcompinit" in capsys.readouterr().out
    assert main(["completion", "fish"]) == 0
    assert "complete -c gmsop -n '__fish_seen_subcommand_from train' -l layer_decay" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["models", "*_tiny", "--json"],
        ["models", "--backbone", "test_resnet", "--json"],
        ["recipes", "--json"],
        ["recipes", "demo/gap", "--json"],
        ["info", "--json"],
        ["evaluate", "MODEL", "--json"],
        ["predict", "MODEL", "PHOTO", "--json"],
        ["data", "inspect", "SAMPLE", "--json"],
    ],
    ids=" ".join,
)
def test_answers_as_json(words, model_file, photo, capsys):
    given = {"MODEL": model_file, "PHOTO": photo, "SAMPLE": str(gmsop.data.sample_path())}
    assert main([given.get(word, word) for word in words]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)


def test_quiet_and_verbose(model_file, tmp_path, capsys):
    words = ["evaluate", model_file, "--class_csv", str(tmp_path / "c.csv"), "--overwrite"]
    assert main([*words, "--quiet"]) == 0
    quiet = capsys.readouterr()
    assert main(words) == 0
    printed = capsys.readouterr()
    assert "errors per class" in printed.err
    assert quiet.err == ""
    assert quiet.out.splitlines()[0] == printed.out.splitlines()[0]
    assert main(["predict", "nowhere.ckpt", "x.png", "--verbose"]) == 1
    assert "Traceback" in capsys.readouterr().err
    assert main(["predict", "nowhere.ckpt", "x.png"]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_no_colours_in_a_pipe(tmp_path):
    words = [sys.executable, "-m", "gmsop.cli", "recipes"]
    done = subprocess.run(words, capture_output=True, check=True)
    assert b"\x1b" not in done.stdout + done.stderr
