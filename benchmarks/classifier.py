"""How fast a linear classifier on each head may learn, before training: why few classes want `classifier_lr_scale`.

    python benchmarks/classifier.py [--classes 10] [--momentum 0.9]

With predictions still uniform over C classes, the curvature of the mean cross-entropy along the classifier's weights is
(1/C) times the largest eigenvalue of E[x x^T], x being the representation. Gradient descent with momentum m overshoots
at rates above 2 (1 + m) / curvature. BatchNorm gives each of a mixture's 8256 numbers variance 1, so that their
eigenvalue is in the thousands, where that of plain second-order pooling is about ten.
"""

import argparse

import numpy as np
import torch

import gmsop
from gmsop.data import PackedDataset, sample_path
from gmsop.data.preprocess import Preprocess

HEADS = ("gap", "sr_sop", "parametric_sop", "gm_gap_16_8", "gm_sop_16_8")
BATCH, BATCHES = 32, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--momentum", type=float, default=0.9)
    args = parser.parse_args()
    sample = PackedDataset(sample_path(), "train")
    chosen = np.random.default_rng(0).permutation(len(sample))[: BATCH * BATCHES]
    images = Preprocess.of_set(sample.meta).input(torch.from_numpy(sample.images[chosen]))
    print(f"{'model':24} {'E |x|^2':>9} {'largest eigenvalue':>19} {'largest rate':>13}")
    for head in HEADS:
        torch.manual_seed(0)
        model = gmsop.create_model(f"{head}_resnet18", args.classes)
        model.drop.p = 0.0
        size, top = [], []
        for batch in images.split(BATCH):
            with torch.no_grad():
                x = model.forward_head(model.forward_features(batch), pre_logits=True).double()
            values = torch.linalg.svdvals(x).square() / len(x)
            size.append(values.sum().item())
            top.append(values[0].item())
        largest = 2 * (1 + args.momentum) * args.classes / np.mean(top)
        print(f"{head + '_resnet18':24} {np.mean(size):9.0f} {np.mean(top):19.0f} {largest:13.4f}")


if __name__ == "__main__":
    main()
