"""How fast the probe is: extraction, training on cached features, a comparison of six heads.

    python benchmarks/probe.py [--images 400] [--full]

Prints ratios that are measured side by side; --full also runs six heads on all 2,000 bundled images (minutes).
"""

import argparse
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from gmsop.data import sample_path
from gmsop.data.labelled_images import find_images
from gmsop.engine.messages import duration
from gmsop.probe import compare, extract
from gmsop.probe.extraction import frozen_backbone
from gmsop.probe.probes.trained import make
from gmsop.probe.study import drawn
from gmsop.probe.training import BATCH, train

BACKBONE = "tf_efficientnet_lite0"
LAYERS = ["blocks.4", "blocks.6", "features"]


def best_way() -> tuple[int, torch.memory_format]:
    """Return the batch size and memory format with which the backbone's forward pass is fastest."""
    found = {}
    for form in (torch.contiguous_format, torch.channels_last):
        trunk = frozen_backbone(BACKBONE, LAYERS, "auto").to(memory_format=form)
        for batch in (1, 2, 4, 8, 16, 32):
            found[batch, form] = bare(trunk, batch, form, 64)
    return min(found, key=found.__getitem__)


def bare(trunk, batch: int, form: torch.memory_format, images: int) -> float:
    """Return the seconds of the backbone's forward pass alone."""
    x = torch.randn(batch, 3, 224, 224).contiguous(memory_format=form)
    with torch.inference_mode():
        trunk(x)
        start = time.perf_counter()
        for _ in range(images // batch):
            trunk(x)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--full", action="store_true")
    args = parser.parse_args()
    images = replace(find_images(sample_path()), is_test=None)
    some, more = drawn(images, args.images), drawn(images, 2 * args.images)
    batch, form = best_way()
    trunk = frozen_backbone(BACKBONE, LAYERS, "auto").to(memory_format=form)
    print(f"the forward pass is fastest with batch {batch}, {form}")
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(3):
            seconds = []
            for number, which in enumerate((some, more)):
                start = time.perf_counter()
                features = extract(BACKBONE, which, Path(folder) / f"{turn}{number}", LAYERS)
                seconds.append(time.perf_counter() - start)
            forward = bare(trunk, batch, form, args.images)
            each = seconds[1] - seconds[0]
            print(
                f"extraction: {seconds[0]:.1f} s for {len(some)} images, {seconds[1]:.1f} s for {len(more)}; the "
                f"second half in {each:.1f} s, the bare forward pass {forward:.1f} s: {each / forward:.2f} times"
            )
        for head in ("gap", "sr_sop", "gm_sop"):
            cached(features, head)
    if args.full:
        with tempfile.TemporaryDirectory() as folder:
            features = extract(BACKBONE, find_images(sample_path()), folder + "/f", ["blocks.6"], progress=True)
            heads = ["average", "second_order", "gap", "sr_sop", "parametric_sop", "gm_sop"]
            found = compare(features, heads, progress=True)
            print(f"{len(heads)} heads on {len(features):,} images, 320 x 7 x 7: {duration(found.seconds)}")
            for row in found.rows:
                print(f"  {row.head:22} {row.error:6.2f} % {row.seconds:7.1f} s")


def cached(features, head: str) -> None:
    """Compare training on cached features with the frozen backbone in the loop, in images a second."""
    rows, setting = np.arange(len(features)), {"lr": 1e-3, "batch_norm": 0}
    start = time.perf_counter()
    train(features, "blocks.6", rows, partial(make, head=head), setting, 5, 0)
    fast = 5 * len(rows) / (time.perf_counter() - start)
    trunk = frozen_backbone(features.backbone, ["blocks.6"], "auto")
    module = make(features, "blocks.6", False, head)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    x = torch.randn(BATCH, 3, 224, 224)
    y = torch.from_numpy(features.labels[:BATCH])
    start = time.perf_counter()
    for _ in range(2):
        with torch.inference_mode():
            maps = torch.cat([trunk(part.contiguous(memory_format=torch.channels_last))[0] for part in x.split(4)])
        loss = torch.nn.functional.cross_entropy(module(maps.clone()), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    slow = 2 * BATCH / (time.perf_counter() - start)
    print(f"{head}: {fast:,.0f} images/s on cached features, {slow:,.0f} through the backbone: {fast / slow:.1f} times")


if __name__ == "__main__":
    main()
