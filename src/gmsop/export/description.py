"""Describe an exported model: what goes in, how it is prepared, what comes out. The file carries it as JSON."""

from typing import Any

from gmsop.data.preprocess import Preprocess
from gmsop.models.classifier import PooledClassifier
from gmsop.weights.fingerprint import fingerprint
from gmsop.weights.model_file import describe

VERSION = 1


def description_of(model: PooledClassifier, with_preprocess: bool, dynamic_size: bool) -> dict[str, Any]:
    """Return the description of an exported file.

    `input.shape` and `output.shape` name what may vary. `mean` and `std` are in units in which white is 1: where the
    file does not normalise, who calls it computes (pixels / 255 - mean) / std. `interpolation`, `crop_mode` and
    `crop_pct` say how an image of any size becomes `size` pixels high and wide, in timm's words.
    """
    how = Preprocess.of(model.pretrained_cfg)
    size: list[Any] = ["height", "width"] if dynamic_size else [how.image_size, how.image_size]
    channels = model.in_chans
    spec = describe(model)["spec"]
    return {
        "version": VERSION,
        "model": spec,
        "weights": fingerprint(model),
        "input": {
            "dtype": "uint8" if with_preprocess else "float32",
            "shape": ["batch", *size, channels] if with_preprocess else ["batch", channels, *size],
            "normalised_inside": with_preprocess,
            "size": how.image_size,
            "mean": list(how.mean),
            "std": list(how.std),
            "interpolation": how.filter_name,
            "crop_mode": how.crop_mode,
            "crop_pct": how.crop_pct,
        },
        "output": {"name": "logits", "shape": ["batch", model.num_classes]},
        "classes": model.pretrained_cfg.get("label_names") or [str(i) for i in range(model.num_classes)],
    }
