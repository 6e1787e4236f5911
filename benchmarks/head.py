"""The operator's and the head's tables, under the two ceilings of this machine: what its memory and its products reach.

python benchmarks/head.py [--device cuda] [--json FILE]
"""

import sys

import torch

from gmsop.cli import main
from gmsop.cli.commands.benchmark import asked_device
from gmsop.speed.timing import seconds


def ceilings(device: torch.device) -> None:
    """Measured, not looked up: a large copy, and large products in each precision."""
    size = 1 << (28 if device.type == "cuda" else 25)
    source = torch.randn(size, device=device)
    target = torch.empty_like(source)
    best = min(seconds(lambda: target.copy_(source), device) for _ in range(10))
    print(f"copy: {8 * size / best / 1e9:.0f} GB/s, read and written")
    n = 8192 if device.type == "cuda" else 1024
    rates = {}
    for name, dtype, precision in (("float32", torch.float, "highest"), ("TF32", torch.float, "high"),
                                   ("bfloat16", torch.bfloat16, "highest")):  # fmt: skip
        if device.type == "cpu" and name == "TF32":
            continue
        torch.set_float32_matmul_precision(precision)
        a = torch.randn(n, n, device=device).to(dtype)
        rates[name] = 2 * n**3 / min(seconds(lambda a=a: a @ a, device) for _ in range(10))
        print(f"{name} products: {rates[name] / 1e12:.2f} TFLOP/s")
    torch.set_float32_matmul_precision("highest")
    # Forward: covariance 2 D^2 M, six products as the iteration is written, 2 D^3 each. Backward: fourteen and 2 D^2 M.
    images = 2048 if device.type == "cuda" else 64
    operations = images * (2 * 2 * 128**2 * 256 + 20 * 2 * 128**3)
    moved = images * 4 * (3 * 128 * 256 + 2 * 8256)
    rate = max(rates["float32"], rates.get("TF32", 0) / 3)
    floor = max(operations / rate, moved * best / (8 * size))
    print(f"floor of forward + backward, {images} x 128 x 256, float32 accuracy: {1e3 * floor:.2f} ms\n")


if __name__ == "__main__":
    ceilings(asked_device(sys.argv[1:]))
    sys.exit(main(["benchmark", "operator", "head", *sys.argv[1:]]))
