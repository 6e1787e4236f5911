"""How much of a mixture's representation, before training, says which components were chosen and not what is seen.

    python benchmarks/selection.py [--seed 0]

At first K of the N components are drawn at random for each image, with equal weights. Over the draws a feature then has
the variance (1/K - 1/N) S^2, S^2 being its variance over the components (a mean of K out of N), on top of its variance
over the images, which is that of the mean over all components. Printed is the first one's share of both, averaged over
the features: of BatchNorm's variance of one, so much is noise to the classifier.
"""

import argparse

import numpy as np
import torch

import gmsop
from gmsop.data import PackedDataset, sample_path
from gmsop.data.preprocess import Preprocess

MODELS = ("gm_gap_16_8_resnet18", "gm_sop_16_8_resnet18")
IMAGES = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    sample = PackedDataset(sample_path(), "train")
    chosen = np.random.default_rng(0).permutation(len(sample))[:IMAGES]
    images = Preprocess.of_set(sample.meta).input(torch.from_numpy(sample.images[chosen]))
    print(f"{'model':24} {'share of the choice':>20}")
    for name in MODELS:
        torch.manual_seed(args.seed)
        model = gmsop.create_model(name)
        gate = model.pool.gate
        with torch.no_grad():
            maps = torch.cat([model.forward_features(images_slice) for images_slice in images.split(32)])
            vectors = torch.stack([component(maps) for component in model.pool.components]).double()
        of_choice = (1 / gate.top_k - 1 / gate.num_components) * vectors.var(0).mean(0)
        of_images = vectors.mean(0).var(0)
        both = of_choice + of_images
        share = (of_choice / both)[both > 0].mean().item()
        print(f"{name:24} {100 * share:18.0f} %")


if __name__ == "__main__":
    main()
