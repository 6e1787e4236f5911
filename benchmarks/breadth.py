"""Which heads work on which backbones: a table of backbone and head, and how many of timm's families take a head.

    python benchmarks/breadth.py [--backbones test_resnet,test_vit] [--heads gap,sr_sop] [--families]

Weights are random, images as large as the backbone's settings say. A cell has a letter for each thing that was done and
came out right: f, logits are finite and of the right shape; b, every parameter that learns got a finite gradient; s, a
saved and loaded model gives the same bits; t, so does the folder that timm reads; x, a trace by `torch.fx`, with the
leaves that timm names, gives the same to 1e-4; e, so does `torch.export`'s program. What failed has a dot, and a line
below the table. The number is the seconds that all took.
"""

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from timm.models import get_notrace_functions, get_notrace_modules
from torch import Tensor
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import gmsop
from gmsop.errors import GmsopError

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "models"))
from families import FAMILIES, REAL

CLASSES = 5
SMALL = {"num_components": 4}


def forward(model: gmsop.models.PooledClassifier, images: Tensor) -> bool:
    with torch.no_grad():
        logits = model(images)
    return logits.shape == (len(images), CLASSES) and bool(logits.isfinite().all())


def backward(model: gmsop.models.PooledClassifier, images: Tensor) -> bool:
    model.train()(images).square().sum().backward()
    model.eval()
    return all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters() if p.requires_grad)


def save_and_load(model: gmsop.models.PooledClassifier, images: Tensor) -> bool:
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        gmsop.save_model(model, f"{folder}/net.safetensors")
        return torch.equal(gmsop.load_model(f"{folder}/net.safetensors")(images), model(images))


def through_timm(model: gmsop.models.PooledClassifier, images: Tensor) -> bool:
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        model.save_pretrained(folder)
        return torch.equal(timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(images), model(images))


def fx(model: gmsop.models.PooledClassifier, images: Tensor) -> bool:
    leaves = {"leaf_modules": list(get_notrace_modules()), "autowrap_functions": list(get_notrace_functions())}
    last = get_graph_node_names(model, tracer_kwargs=leaves)[1][-1]
    with torch.no_grad():
        traced = create_feature_extractor(model, eval_return_nodes=[last], train_return_nodes=[], tracer_kwargs=leaves)
        return close(traced(images)[last], model(images))


def export(model: gmsop.models.PooledClassifier, images: Tensor) -> bool:
    with torch.no_grad():
        return close(torch.export.export(model, (images,)).module()(images), model(images))


def close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).norm() <= 1e-4 * expected.norm())


CHECKS: dict[str, Callable[[gmsop.models.PooledClassifier, Tensor], bool]] = {
    "f": forward, "b": backward, "s": save_and_load, "t": through_timm, "x": fx, "e": export,
}  # fmt: skip


def cell(backbone: str, head: str, failures: list[str]) -> str:
    torch.manual_seed(0)
    started = time.perf_counter()
    options = SMALL if head.startswith("gm_") else {}
    model = gmsop.attach(backbone, head, CLASSES, **options).eval()
    images = torch.randn(2, *model.pretrained_cfg["input_size"])
    letters = ""
    for letter, check in CHECKS.items():
        reason = "another answer"
        try:
            right = check(model, images)
        except Exception as error:
            right, reason = False, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:150]}"
        model.zero_grad(set_to_none=True)
        letters += letter if right else "."
        if not right:
            failures.append(f"{backbone}, {head}, {check.__name__}: {reason}")
    return f"{letters} {time.perf_counter() - started:.0f}"


def families() -> None:
    refused = []
    there = [family for family in FAMILIES if timm.is_model(FAMILIES[family])]
    for family in there:
        try:
            with torch.device("meta"):
                model = gmsop.attach(FAMILIES[family], "sr_sop", CLASSES).eval()
                assert model.fc(model.pool(torch.empty(2, model.num_features, 5, 5))).shape == (2, CLASSES)
        except (GmsopError, NotImplementedError) as error:
            refused.append(f"{family} ({FAMILIES[family]}): {error}")
    without = sorted(set(timm.list_modules()) - set(FAMILIES) - {"names"})  # the last is gmsop's
    print(f"\n{len(there) - len(refused)} of {len(there)} families of timm {timm.__version__} take a head.")
    print("\n".join(refused))
    print(f"Modules of timm's without a family here: {', '.join(without) or 'none'}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", default=",".join(REAL))
    parser.add_argument("--heads", default=",".join(gmsop.list_heads()))
    parser.add_argument("--families", action="store_true", help="only count the families, on the meta device")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"gmsop {gmsop.__version__}, timm {timm.__version__}, torch {torch.__version__}")
    if not args.families:
        heads, failures = args.heads.split(","), []
        print(f"\n| backbone | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}")
        for backbone in args.backbones.split(","):
            cells = [cell(backbone, head, failures) for head in heads]
            print(f"| {backbone} | {' | '.join(cells)} |", flush=True)
        print("\n" + ("\n".join(failures) or "Nothing failed."))
    families()


if __name__ == "__main__":
    main()
