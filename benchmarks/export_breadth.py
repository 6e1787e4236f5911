"""Which heads go out to ONNX from which backbones: the error of the file's logits, and its speed beside the model's.

    python benchmarks/export_breadth.py [--backbones resnet18,vit_tiny_patch16_224] [--heads gap,sr_sop] [--images 24]

Weights are random, but BatchNorm has seen a batch and gates choose. Every file is written by `gmsop.export_model`,
opened in onnxruntime on the CPU, and compared on bundled images, at the backbone's own size (convolutional ones at 96
pixels, to save time). A cell has the largest error of a logit, relative to the largest logit of its image, and how many
times as fast as the model, eager, the file is at batch 1 and at batch 32. What could not be exported has its reason
below.
"""

import argparse
import platform
import tempfile
import time
import warnings
from pathlib import Path

import onnxruntime
import timm
import torch

import gmsop
from gmsop.errors import GmsopError

BACKBONES = {
    "resnet18": 96, "resnet50": 96, "resnext50_32x4d": 96, "wide_resnet50_2": 96, "seresnet50": 96, "densenet121": 96,
    "vgg11_bn": 96, "mobilenetv3_large_100": 96, "efficientnet_b0": 96, "tf_efficientnet_lite0": 96, "ghostnet_100": 96,
    "regnety_002": 96, "repvgg_a0": 96, "convnext_atto": 96, "hrnet_w18_small": 96, "mixnet_s": 96, "darknet53": 96,
    "vit_tiny_patch16_224": None, "deit_tiny_patch16_224": None, "swin_tiny_patch4_window7_224": None,
}  # fmt: skip
"""Names of timm's, and the pixels of an image; None: the backbone's own."""
CLASSES = 10


def cell(backbone: str, head: str, images: int, failures: list[str]) -> str:
    torch.manual_seed(0)
    small = {"num_components": 4} if head.startswith("gm_") else {}
    model = gmsop.attach(backbone, head, CLASSES, **small)
    size = BACKBONES.get(backbone)
    if size is not None:
        model.pretrained_cfg["input_size"] = (3, size, size)
    if model.gate is not None:
        torch.nn.init.normal_(model.gate.weight, std=0.01)
    with torch.no_grad():
        model.train()(torch.rand(8, *model.pretrained_cfg["input_size"]))
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = gmsop.export_model(model.eval(), Path(folder) / "m.onnx", check_images=images)
        except GmsopError as error:
            failures.append(f"{backbone}, {head}: {error}")
            return "-"
    (_, _, one), (_, _, many) = done.agreement.milliseconds.values()
    return f"{done.agreement.error:.0e} {one:.1f}x {many:.1f}x"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", default=",".join(BACKBONES))
    parser.add_argument("--heads", default=",".join(gmsop.list_heads()))
    parser.add_argument("--images", type=int, default=32)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    print(
        f"gmsop {gmsop.__version__}, timm {timm.__version__}, torch {torch.__version__}, onnxruntime "
        f"{onnxruntime.__version__}, {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    )
    heads, failures, started = args.heads.split(","), [], time.perf_counter()
    print(f"\n| backbone | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}", flush=True)
    for backbone in args.backbones.split(","):
        cells = [cell(backbone, head, args.images, failures) for head in heads]
        print(f"| {backbone} | {' | '.join(cells)} |", flush=True)
    print("\n" + ("\n".join(failures) or "Nothing failed."))
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
