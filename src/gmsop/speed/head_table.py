"""Measure the head's table of `gmsop benchmark`."""

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from gmsop.nn import GatedMixture, Routing
from gmsop.speed.registry import FLOAT32, register_table
from gmsop.speed.timing import Measurement, compare, relative_error


@register_table("head")
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
            with torch.no_grad():  # one sign per row: where a sum is near zero, rounding would decide a ReLU's gradient
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


def _training(
    way: Callable[[Tensor, Routing], Tensor], x: Tensor, routing: Routing, inputs: Sequence[Tensor]
) -> Callable[[], object]:
    return lambda: torch.autograd.grad(way(x, routing).sum(), list(inputs))


def _mixture_in_float64(head: GatedMixture, x: Tensor, routing: Routing) -> tuple[Tensor, Tensor]:
    """Return the output of the loop over components, and its gradients, in float64."""
    exact, x = copy.deepcopy(head).double(), x.detach().double().requires_grad_()
    out = exact._one_by_one(x, routing._replace(gates=routing.gates.double()))
    return out, _flat(torch.autograd.grad(out.sum(), [x, *exact.components.parameters()]))


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])
