"""How fast are many files predicted? `gmsop predict` beside the model alone, decoding alone, and one file at a time.

    python benchmarks/predict.py FOLDER [--model runs/x] [--images 1000] [--rounds 3]

FOLDER holds images, at any depth. First it is checked that batches answer as single images do. Then they take turns;
what is printed is the median of seconds over the rounds, with its range. At the end comes the whole against the sum of
the model's and the decoding's time, of which the aim is at most 1.10.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch

import gmsop
from gmsop.data.image_files import folder_images
from gmsop.data.preprocess import Preprocess

BATCHES = (4, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default=None)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    model = gmsop.attach("tf_efficientnet_lite0", "sr_sop", 49) if args.model is None else gmsop.load_model(args.model)
    model.eval()
    paths = list(islice(folder_images(args.folder), args.images))
    how = Preprocess.of(model.pretrained_cfg)
    pixels = np.stack([how.read(path) for path in paths])
    one = [gmsop.predict(model, path, 1).classes[0] for path in paths[:50]]
    many = [answer.classes[0] for answer in gmsop.predict(model, paths[:50], 1)]
    assert all(a[0] == b[0] and abs(a[1] - b[1]) < 1e-4 for a, b in zip(one, many, strict=True))

    def alone(size: int) -> None:
        with torch.inference_mode():
            for i in range(0, len(pixels), size):
                model(how.input(torch.from_numpy(pixels[i : i + size])))

    def decoding() -> None:
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(how.read, paths))

    ways: dict[str, Callable[[], object]] = {
        **{f"the model alone, batches of {size}": partial(alone, size) for size in BATCHES},
        "decoding alone, a thread a processor": decoding,
        "gmsop.predict of all": lambda: list(gmsop.predict(model, paths, 5)),
        "gmsop.predict one by one": lambda: [gmsop.predict(model, path, 5) for path in paths],
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    print(f"{len(paths):,} images, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name, own in times.items():
        print(f"{name:40} {statistics.median(own):7.2f} s ({min(own):.2f} to {max(own):.2f})")
    model_alone, whole = (
        [min(each) for each in zip(*list(times.values())[:2], strict=True)],
        times["gmsop.predict of all"],
    )
    decoding_alone, single = times["decoding alone, a thread a processor"], times["gmsop.predict one by one"]
    ratios = [w / (m + d) for w, m, d in zip(whole, model_alone, decoding_alone, strict=True)]
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    print(f"all at once against the faster model plus decoding: {middle:.2f} ({low:.2f} to {high:.2f})")
    faster = [s / w for s, w in zip(single, whole, strict=True)]
    print(f"all at once against one by one: {statistics.median(faster):.2f} times as fast")


if __name__ == "__main__":
    main()
