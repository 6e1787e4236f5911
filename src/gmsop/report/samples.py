"""Find the images for which a component has the largest gates."""

import base64
import io
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from gmsop.data import PackedDataset
from gmsop.data.photographs import Photographs
from gmsop.data.preprocess import Preprocess
from gmsop.models.classifier import PooledClassifier
from gmsop.utils.progress import progress_bar


class Sample(NamedTuple):
    """Holds an image for which a component has a large gate."""

    weight: float
    """The component's gate for this image."""
    label: str
    url: str
    """PNG in a data URL."""


@torch.inference_mode()
def favourites(
    model: PooledClassifier, dataset: PackedDataset | Photographs, images: int, count: int = 6, progress: bool = False
) -> list[list[Sample]]:
    """Return for each component the `count` images with its largest gates, best first.

    `images` images, spread evenly over the set, are searched.
    """
    prepared, dtype = Preprocess.of(model.eval().pretrained_cfg), next(model.parameters()).dtype
    rows = torch.linspace(0, len(dataset) - 1, min(images, len(dataset))).round().long()
    gates = []
    with progress_bar(progress) as bar:
        for some in bar.track(rows.split(64), description="sample images"):
            pixels = torch.from_numpy(np.array(dataset.batch(some.numpy())[0]))
            _, routing = model(prepared.input(pixels, dtype), return_routing=True)
            gates.append(routing.dense)
    weight = torch.cat(gates)
    best = weight.topk(min(count, len(rows)), dim=0)
    return [
        [
            Sample(value, dataset.class_names[int(dataset.labels[row])], _png(dataset.batch(np.array([row]))[0][0]))
            for value, row in zip(values.tolist(), rows[order].tolist(), strict=True)
            if value > 0
        ]
        for values, order in zip(best.values.T, best.indices.T, strict=True)
    ]


def _png(pixels: object) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")  # type: ignore[arg-type]
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
