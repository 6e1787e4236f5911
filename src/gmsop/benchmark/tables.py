"""The tables of `gmsop benchmark`: operator, head, training step, inference."""

import copy
import importlib.util
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from gmsop import ops
from gmsop.assembly import BACKBONES
from gmsop.benchmark import baselines
from gmsop.benchmark.timing import Measurement, compare, relative_error
from gmsop.errors import UnknownNameError
from gmsop.models import create_model, list_models
from gmsop.nn import GatedMixture, Routing
from gmsop.ops import naive

FLOAT32 = 1e-4
"""Largest relative error of a float32 candidate against float64, gradients included."""


def operator_table(device: torch.device, small: bool = False) -> Iterator[Measurement]:
    """Second-order pooling, forward and backward: D = 128 channels from 256 positions, three iterations."""
    batch = 4 if small else 64 if device.type == "cpu" else 2048
    x = torch.randn(batch, 128, 256, device=device).relu().requires_grad_()
    probe = torch.randn(batch, ops.triu_size(128), device=device)
    candidates: dict[str, Callable[[Tensor], Tensor]] = {
        "plain autograd": baselines.plain,
        "fast MPN-COV's way": baselines.stored,
        "gmsop": ops.second_order_pool,
    }
    if not small:
        candidates["torch.compile of plain"] = torch.compile(baselines.plain)
        candidates["eigh (exact root)"] = baselines.eigh
    few = torch.arange(batch)[[0, 1, -2, -1]]  # the first and, where a kernel takes one image after the other, the last
    small_x = x.detach()[few].double().cpu().requires_grad_()
    errors, runs = {}, {}
    for name, function in candidates.items():
        root = naive.eigh_sqrt if "eigh" in name else naive.newton_schulz_sqrt
        expected = naive.triu_vectorize(root(naive.covariance_pool(small_x)))
        (expected_gradient,) = torch.autograd.grad(expected, small_x, probe[few].double().cpu())
        out = function(x)
        (gradient,) = torch.autograd.grad(out, x, probe)
        errors[name] = max(relative_error(out[few], expected), relative_error(gradient[few], expected_gradient))
        runs[name] = _forward_and_backward(function, x, probe)
    bounds = {name: 1e-2 if "eigh" in name else FLOAT32 for name in candidates}  # eigh divides by small roots
    yield from compare(f"{batch} x 128 x 256, float32", runs, errors, bounds, device, rounds=5 if small else 15)


def head_table(device: torch.device, small: bool = False) -> Iterator[Measurement]:
    """The mixture's components, forward and backward, without the gate: K = 8 of N, ResNet-18's widths."""
    cpu = device.type == "cpu"
    for batch in [2] if small else [1, 8, 32] if cpu else [1, 256]:
        for components in [16] if small else [16, 64, 128]:
            head = GatedMixture.second_order(256, components, 8).to(device)
            torch.nn.init.normal_(head.gate.weight)
            x = torch.randn(batch, 256, 16, 16, device=device).relu().requires_grad_()
            with torch.no_grad():
                routing = head.gate(x)
            parameters = list(head.components.parameters())
            inputs = [x, *parameters]
            with torch.no_grad():  # each row of one sign: where a sum is near zero, rounding decides a ReLU's gradient
                for weight in parameters:
                    weight.abs_()[::2].neg_()
            ways = {"loop over components": head._one_by_one, "gmsop": head._mix}
            outs, gradients = {}, {}
            for name, way in ways.items():
                outs[name] = way(x, routing)
                gradients[name] = _flat(torch.autograd.grad(outs[name].sum(), inputs))
            exact = _mixture_in_float64(head, x, routing)
            errors = {n: max(relative_error(outs[n], exact[0]), relative_error(gradients[n], exact[1])) for n in ways}
            runs = {n: _training(w, x, routing, inputs) for n, w in ways.items()}
            case = f"batch {batch}, K = 8 of N = {components}"
            yield from compare(case, runs, errors, dict.fromkeys(ways, FLOAT32), device, rounds=5 if small else 11)


def step_table(device: torch.device, small: bool = False) -> Iterator[Measurement]:
    """A training step of ResNet-18 on images that are there already: forward, backward, SGD.

    On a GPU compiled, in bfloat16 autocast and channels_last, at batch 256; on a CPU in float32 at batch 16.
    """
    batch = 2 if small else 256 if device.type == "cuda" else 16
    names = ["gap_resnet18", "gm_sop_16_8_resnet18"] + ([] if small else ["sr_sop_resnet18", "gm_gap_16_8_resnet18"])
    runs = {name: training_step(name, batch, device) for name in names}
    errors = {name: 0.0 if run().isfinite() else torch.nan for name, run in runs.items()}
    case, bounds = f"batch {batch}, 64 x 64", dict.fromkeys(names, 0.0)
    yield from compare(case, runs, errors, bounds, device, rounds=3 if small else 9)


def inference_table(device: torch.device, small: bool = False, models: str = "*") -> Iterator[Measurement]:
    """Latency of models in evaluation at batch 1 and 64: eager, compiled, onnxruntime where it is installed.

    In turn with the same backbone under average pooling, eager, so that the ratios say what another head costs.
    """
    names = ["gap_tiny", "gm_sop_4_2_tiny"] if small else [n for n in list_models(models) if not n.endswith("tiny")]
    if not names:
        raise UnknownNameError.of("model", models, list_models())
    for name in names:
        plain = "gap_" + next(backbone for backbone in BACKBONES if name.endswith(backbone))
        evaluated = {n: _untrained(n, device) for n in dict.fromkeys((plain, name))}
        model = evaluated[name]
        for batch in [1] if small else [1, 64]:
            images = torch.randn(batch, 3, 64, 64, device=device)
            runs = {f"{n}, eager": _evaluation(m, images) for n, m in evaluated.items()}
            if not small:
                torch.compiler.reset()
                runs["compiled"] = _evaluation(torch.compile(model, fullgraph=True), images)
                if device.type == "cpu" and all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime"))):
                    runs["onnxruntime"] = _onnx(model, images)
            exact = {f"{n}, eager": _in_float64(m, images) for n, m in evaluated.items()}
            errors = {way: relative_error(torch.as_tensor(run()), exact.get(way, exact[f"{name}, eager"]))
                      for way, run in runs.items()}  # fmt: skip
            bounds = dict.fromkeys(runs, FLOAT32)
            yield from compare(f"{name}, batch {batch}", runs, errors, bounds, device, rounds=5 if small else 15)


TABLES: dict[str, Callable[..., Iterator[Measurement]]] = {
    "operator": operator_table,
    "head": head_table,
    "step": step_table,
    "inference": inference_table,
}


def _forward_and_backward(function: Callable[[Tensor], Tensor], x: Tensor, probe: Tensor) -> Callable[[], object]:
    return lambda: torch.autograd.grad(function(x), x, probe)


def _training(
    way: Callable[[Tensor, Routing], Tensor], x: Tensor, routing: Routing, inputs: Sequence[Tensor]
) -> Callable[[], object]:
    return lambda: torch.autograd.grad(way(x, routing).sum(), list(inputs))


def _mixture_in_float64(head: GatedMixture, x: Tensor, routing: Routing) -> tuple[Tensor, Tensor]:
    """What comes out of the loop over components, and its gradients, in float64."""
    exact, x = copy.deepcopy(head).double(), x.detach().double().requires_grad_()
    out = exact._one_by_one(x, routing._replace(gates=routing.gates.double()))
    return out, _flat(torch.autograd.grad(out.sum(), [x, *exact.components.parameters()]))


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])


def training_step(name: str, batch: int, device: torch.device) -> Callable[[], Tensor]:
    """One step of `step_table`; gives the loss, on the device."""
    images = torch.randn(batch, 3, 64, 64, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(1000, (batch,), device=device)
    model = create_model(name).to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    cuda = device.type == "cuda"
    forward = torch.compile(model) if cuda else model

    def step() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=cuda):
            logits, routing = forward(images, return_routing=True)
            loss = torch.nn.functional.cross_entropy(logits, labels)
            if routing is not None:
                loss = loss + 100 / len(images) * ops.balance_loss(routing.dense)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _untrained(name: str, device: torch.device) -> torch.nn.Module:
    """For evaluation; a gate, if it has one, that decides."""
    model = create_model(name).to(device).eval()
    for parameter in (p for n, p in model.named_parameters() if n.endswith("gate.weight")):
        torch.nn.init.normal_(parameter)
    return model


@torch.no_grad()
def _in_float64(model: torch.nn.Module, images: Tensor) -> Tensor:
    out = model.double()(images.double())
    model.float()
    return out


def _evaluation(model: Callable[[Tensor], Tensor], images: Tensor) -> Callable[[], Tensor]:
    return torch.no_grad()(lambda: model(images))


def _onnx(model: torch.nn.Module, images: Tensor) -> Callable[[], Any]:
    import onnxruntime

    program = torch.onnx.export(model, (images,), dynamo=True, verbose=False)
    assert program is not None
    with tempfile.TemporaryDirectory() as folder:
        program.save(f"{folder}/model.onnx")
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # it would slow the others down
        session = onnxruntime.InferenceSession(f"{folder}/model.onnx", options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: images.numpy()}
    return lambda: session.run(None, feed)[0]
