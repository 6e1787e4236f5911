"""Fine-tune a whole pretrained network, end to end, with average and with second-order pooling; on a CPU, patiently.

    python benchmarks/finetune.py FOLDER [--epochs 8] [--heads gap sr_sop both]

FOLDER holds train/CLASS/* and val/CLASS/*. All heads have the same images, steps, augmentation (random resized crop,
flip), optimiser (AdamW, cosine, 1e-3 for the head and 3e-4 for the backbone) and seed. "both" pools the middle layer by
covariance and the last by the mean. The val images are looked at once, at the end.
"""

import argparse
import math
import time
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms import v2

import gmsop
from gmsop.backbones.timm_models import TimmBackbone
from gmsop.data import FolderDataset
from gmsop.data.labelled_images import find_images
from gmsop.evaluation.intervals import wilson_interval
from gmsop.nn import ISqrtCovPool
from gmsop.weights.pretrained import load_backbone, pretrained_state

BACKBONE = "tf_efficientnet_lite0"
HEADS = {
    "gap": ("gap", ["features"]),
    "sr_sop": ({"head": "sr_sop", "reduced_dim": 112, "init": "pca"}, ["blocks.4"]),
    "both": ([{"head": "sr_sop", "reduced_dim": 112, "init": "pca"}, "gap"], ["blocks.4", "features"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--heads", nargs="+", default=list(HEADS), choices=list(HEADS))
    args = parser.parse_args()
    images = find_images(args.folder)
    for name in args.heads:
        fine_tune(name, images, args)


def fine_tune(name: str, images, args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    head, layers = HEADS[name]
    heads = head if isinstance(head, list) else [head]
    model = gmsop.attach(BACKBONE, heads, len(images.class_names), layers=layers)
    assert isinstance(model.backbone, TimmBackbone)
    load_backbone(model.backbone, pretrained_state(BACKBONE), BACKBONE)
    rows = [i for i in range(len(images)) if not images.is_test[i]]
    files = [args.folder / images.names[i] for i in rows]
    augment = v2.Compose([v2.RandomResizedCrop(224, (0.5, 1)), v2.RandomHorizontalFlip(), v2.ToImage()])

    def batch(chosen: list[int]) -> torch.Tensor:
        pixels = torch.stack([augment(Image.open(files[i]).convert("RGB")) for i in chosen])
        return pixels.float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)

    with torch.no_grad():  # a reduction starts from principal components of the pretrained features
        for place, pool in enumerate(model.pool.pools):
            if isinstance(pool, ISqrtCovPool) and pool.init == "pca":
                model.eval()
                some = torch.randperm(len(rows))[:256].split(16)
                pool.start_from(model.forward_features(batch(part.tolist()))[place] for part in some)
    groups = [
        {"params": list(model.backbone.parameters()), "lr": 3e-4},
        {"params": [*model.pool.parameters(), *model.fc.parameters()], "lr": 1e-3},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.05)
    steps = args.epochs * math.ceil(len(rows) / args.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 0.5 * (1 + math.cos(math.pi * k / steps)))
    labels = torch.from_numpy(images.labels)[rows]
    start = time.perf_counter()
    model = model.to(memory_format=torch.channels_last)
    for epoch in range(args.epochs):
        model.train()
        for part in torch.randperm(len(rows)).tensor_split(math.ceil(len(rows) / args.batch)):
            loss = torch.nn.functional.cross_entropy(model(batch(part.tolist())), labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"{name}: epoch {epoch + 1}, loss {loss:.3f}, {time.perf_counter() - start:.0f} s", flush=True)
    cfg = model.pretrained_cfg
    val = FolderDataset(args.folder, "val", 224, images.class_names, cfg["interpolation"])
    error = gmsop.evaluate(model, val, batch_size=32).top1_error
    low, high = wilson_interval(error, len(val))
    print(f"{name}: error {error:.2f} % ({low:.2f} to {high:.2f}), {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
