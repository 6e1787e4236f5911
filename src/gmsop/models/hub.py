"""Models as folders that timm, and the Hugging Face hub, understand: weights, `config.json`, a model card."""

import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gmsop.errors import CheckpointError, ConfigError
from gmsop.models.bounded_build import without_memory
from gmsop.models.classifier import PooledClassifier
from gmsop.models.names import tell_timm
from gmsop.models.spec import body_name
from gmsop.utils.files import writing
from gmsop.utils.text import printable_lines

CARD = """---
library_name: timm
tags:
- image-classification
- timm
- gmsop
- second-order-pooling
---
# {name}

{head} on {backbone}: {parameters:,} parameters, {classes} classes, images of {size} pixels.

```python
import gmsop

model = gmsop.load_model("hf-hub:USER/NAME")
```

{figures}
"""


def save_folder(model: PooledClassifier, folder: str | Path, figures: str = "") -> None:
    """Write weights, `config.json` and a model card (`README.md`) into a folder.

    `timm.create_model("local-dir:FOLDER", pretrained=True)`, after `import gmsop`, gives the same model.

    Args:
        figures: what the card says of the model's errors; Markdown.

    Raises:
        ConfigError: the model could not be built again from its description.
    """
    from timm.models import save_for_hf

    if model.spec is None or model.spec.backbone == "module":
        raise ConfigError(
            "a backbone or head that gmsop cannot build again makes no folder for timm: gmsop.save_model keeps the head"
        )
    tell_timm(model)
    own: Any = model
    save_for_hf(model, str(folder), model_args=own._model_args, safe_serialization=True)
    (Path(folder) / "README.md").write_text(printable_lines(_card(model, figures)), encoding="utf-8")


def describe_folder(model: PooledClassifier, folder: Path, figures: str) -> None:
    """Write `config.json` and the card beside weights that lie in the folder already, in `model.safetensors`.

    Raises:
        WriteError: no space, no permission.
    """
    with TemporaryDirectory() as aside:
        save_folder(model, aside, figures)
        for name in ("config.json", "README.md"):
            with writing(folder / name) as temporary:
                temporary.write_bytes((Path(aside) / name).read_bytes())


def _card(model: PooledClassifier, figures: str) -> str:
    spec = model.spec
    assert spec is not None
    return CARD.format(
        name=spec.name,
        head=spec.head,
        backbone=body_name(spec),
        parameters=sum(p.numel() for p in model.parameters()),
        classes=model.num_classes,
        size=model.pretrained_cfg["input_size"][1],
        figures=figures,
    )


def from_folder_or_hub(source: str | Path, revision: str | None = None, **arguments: Any) -> PooledClassifier:
    """Read a model from such a folder, or from the hub: "hf-hub:user/name" or "user/name".

    Args:
        arguments: of `timm.create_model`. Another `num_classes` makes a fresh classifier.

    Raises:
        CheckpointError: there is none, or it is no model of gmsop's.
    """
    import timm

    text = str(source)
    if Path(text).is_dir():
        name = f"local-dir:{text}"
        _require_fitting(Path(text), name, arguments)
    else:
        name = text if text.startswith("hf-hub:") else f"hf-hub:{text}"
        name += f"@{revision}" if revision else ""
    try:
        model = timm.create_model(name, pretrained=True, **arguments)
    except Exception as error:  # no network, no such model, another file: each with an error of its own kind
        line = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointError(f"{text}: no model can be read there ({line})") from error
    if not isinstance(model, PooledClassifier):
        raise CheckpointError(f"{text}: holds a {type(model).__name__} of timm, no model of gmsop's")
    return model.eval()


def _require_fitting(folder: Path, name: str, arguments: dict[str, Any]) -> None:
    """Refuse a folder whose `config.json` describes a network that its weights are not of, before it takes memory.

    Raises:
        CheckpointError: it does, or there are no weights in safetensors.
    """
    import timm
    from safetensors import SafetensorError, safe_open

    file = folder / "model.safetensors"
    try:
        with safe_open(file, framework="pt") as opened:
            sizes = [math.prod(opened.get_slice(key).get_shape()) for key in opened.keys()]  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: missing, not a safetensors file, or truncated ({error})") from error
    try:
        with without_memory(folder, len(sizes)):
            planned = timm.create_model(name, pretrained=False, **arguments)
        asked = sum(value.numel() for key, value in planned.state_dict().items() if not key.startswith("fc."))
    except CheckpointError:
        raise
    except Exception as error:  # a network that cannot be: each kind with an error of its own
        line = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointError(f"{folder}: no model can be read there ({line})") from error
    if asked > 2 * sum(sizes) + 10**6:
        raise CheckpointError(f"{folder}: config.json describes a network of {asked:,} numbers, {file.name} holds less")
