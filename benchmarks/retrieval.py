"""Does second order retrieve better? Recall@k of vectors of a frozen backbone, by means and by covariances.

    python benchmarks/retrieval.py SET [SET ...] [--backbone tf_efficientnet_lite0] [--out runs/retrieval]

Each SET is a folder train/CLASS/*, val/CLASS/*, or a packed set. Principal components, and the whitening, are fitted on
the training images without their labels; every test image looks for its like among the other test images, by cosine.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gmsop.evaluation.embedding import Whitening, recall_at
from gmsop.probe import SecondOrderPooling, extract

DIM, WHITE = 64, 128


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", type=Path)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--out", type=Path, default=Path("runs/retrieval"))
    args = parser.parse_args()
    print("| set | test images | layer | vectors | numbers | recall@1 | @2 | @4 | @8 |")
    print("|---|---:|---|---|---:|---:|---:|---:|---:|")
    for path in args.sets:
        features = extract(args.backbone, path, args.out / path.name, progress=True)
        test = np.flatnonzero(features.is_test)
        train = np.flatnonzero(~features.is_test)
        labels = features.labels[test]
        for layer, maps in features.maps.items():
            means = np.stack([np.asarray(maps[i], np.float32).mean((1, 2)) for i in range(len(maps))])
            pool = SecondOrderPooling(DIM).fit(maps[train])
            covariances = np.concatenate([pool.transform(maps[i : i + 256]) for i in range(0, len(maps), 256)])
            for name, vectors in (("average", means), ("second order", covariances)):
                white = Whitening.fit(vectors[train], min(WHITE, vectors.shape[1], len(train) - 1))
                for kind, found in ((name, vectors), (f"{name}, whitened", white(vectors))):
                    recall = recall_at(unit(found[test]), labels)
                    shown = " | ".join(f"{value:.1f}" for value in recall.values())
                    print(
                        f"| {path.name} | {len(test):,} | {layer} | {kind} | {found.shape[1]:,} | {shown} |", flush=True
                    )


if __name__ == "__main__":
    main()
