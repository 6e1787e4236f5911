"""The gated mixture: a bank of components, of which each image visits the few its gate picks."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gmsop.errors import ConfigError
from gmsop.nn.bank import bank_forward, bank_of
from gmsop.nn.gate import Routing, TopKGate
from gmsop.nn.pooling import ParametricGAP, ParametricSOP
from gmsop.ops import combine, dispatch, plan_dispatch, weighted_sum
from gmsop.ops.precision import like_input
from gmsop.utils.options import PositiveInt


class GatedMixture(nn.Module):
    """Gate-weighted sum of the K components chosen per image, (B, C, H, W) -> (B, V).

    A component never sees an image that did not choose it, so the cost follows K, not N. One that no image chose gets
    a zero gradient (not None: an optimiser, or DDP, treats all components alike). The official code leaves such a
    component's previous gradient in place and applies it again.

    Args:
        components: N modules, each (n, C, H, W) -> (n, V), for example `ParametricSOP` or `ParametricGAP`.
        gate: as many components as given.

    Raises:
        ConfigError: no component, or a gate for another number of them.

    Source: GM-SOP (NeurIPS 2018), equation 1.
    """

    def __init__(self, components: Iterable[nn.Module], gate: TopKGate) -> None:
        super().__init__()
        self.components = nn.ModuleList(components)
        self.gate = gate
        if len(self.components) != gate.num_components:
            raise ConfigError(f"the gate chooses among {gate.num_components} components, got {len(self.components)}")
        self.out_features = getattr(self.components[0], "out_features", None)

    @classmethod
    def second_order(
        cls,
        in_channels: int,
        num_components: PositiveInt = 16,
        top_k: PositiveInt = 8,
        hidden_dim: PositiveInt = 256,
        reduced_dim: PositiveInt = 128,
        gate_dims: Sequence[PositiveInt] = (256, 128),
        num_iters: PositiveInt = 3,
    ) -> "GatedMixture":
        """The paper's GM-SOP head: `ParametricSOP` components, second-order gate. The defaults are the ResNets'."""
        gate = TopKGate(in_channels, num_components, top_k, gate_dims, True, num_iters)
        components = (ParametricSOP(in_channels, hidden_dim, reduced_dim, num_iters) for _ in range(num_components))
        return cls(components, gate)

    @classmethod
    def first_order(
        cls,
        in_channels: int,
        num_components: PositiveInt = 16,
        top_k: PositiveInt = 8,
        reduced_dim: PositiveInt = 512,
        gate_dims: Sequence[PositiveInt] = (256, 128),
    ) -> "GatedMixture":
        """The paper's GM-GAP head: `ParametricGAP` components, first-order gate. The defaults are the ResNets'."""
        gate = TopKGate(in_channels, num_components, top_k, gate_dims, second_order=False)
        return cls((ParametricGAP(in_channels, reduced_dim) for _ in range(num_components)), gate)

    def forward(self, x: Tensor, return_routing: bool = False) -> Any:
        """The mixture's vector (B, V); with `return_routing` also the gate's `Routing`, as a pair."""
        routing = self.gate(x)
        out = like_input(self._mix(x, routing), x)
        return (out, routing) if return_routing else out

    def _mix(self, x: Tensor, routing: Routing) -> Tensor:
        bank = bank_of(self.components)
        if bank is None:
            return self._one_by_one(x, routing)
        return weighted_sum(bank_forward(bank, x, routing.indices), routing.gates)

    def _one_by_one(self, x: Tensor, routing: Routing) -> Tensor:
        """Any components: a call to each that some image chose."""
        plan = plan_dispatch(routing.indices, len(self.components))
        outputs, idle = [], []
        for component, images in zip(self.components, dispatch(x, plan), strict=True):
            if len(images) or not len(x):  # of an empty batch the components still tell the shape
                outputs.append(component(images))
            else:
                idle += [p for p in component.parameters() if p.requires_grad]
        out = combine(outputs, routing.gates, plan)
        return _ZeroGrad.apply(out, *idle) if idle and torch.is_grad_enabled() else out


class _ZeroGrad(torch.autograd.Function):
    """Passes its first argument on; gives the others a gradient of zeros."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return grad, *(torch.zeros_like(p) for p in ctx.saved_tensors)
