"""The gated mixture has a gate and components, of which each image visits the few that the gate chooses for it."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from gmsop.errors import ConfigError
from gmsop.nn.bank import bank_forward, bank_of
from gmsop.nn.gate import Routing, TopKGate, default_top_k
from gmsop.nn.pooling import Iterations, ParametricGAP, ParametricSOP, in_dtype_of, require_map
from gmsop.ops import balance_loss, combine, dispatch, plan_dispatch, weighted_sum
from gmsop.ops.precision import like_input
from gmsop.utils.options import NonNegativeFloat, PositiveInt

for _function in ("balance_loss", "in_dtype_of", "like_input", "require_map", "weighted_sum"):
    torch.fx.wrap(_function)  # so symbolic tracing records it as one operation


class GatedMixture(nn.Module):
    """Sum the K components chosen per image, weighted by the gate, (B, C, H, W) -> (B, V).

    A component never sees an image that did not choose it, so the cost follows K, not N. One that no image chose gets
    a zero gradient (not None: an optimiser, or DDP, treats all components alike). The official code leaves such a
    component's previous gradient in place and applies it again.

    Args:
        components: N modules, each (n, C, H, W) -> (n, V), for example `ParametricSOP` or `ParametricGAP`.
        gate: chooses among as many components as are given.
        balance_weight: for training loops that see the output alone. Above 0, the backward pass adds the gradient of
            `balance_weight` times the balance loss, as if it had been added to the loss. The paper's weight against a
            mean cross-entropy is 100 / batch size. Where the loop multiplies its loss before the backward pass (by
            1 / n for n accumulated passes, or by a gradient scaler's factor), set `balance_scale` to that number.

    Raises:
        ConfigError: no component, or a gate for another number of them; in `forward`, something else than a map
            (B, C, H, W).

    Source: GM-SOP (NeurIPS 2018), equation 1.
    """

    def __init__(self, components: Iterable[nn.Module], gate: TopKGate, balance_weight: float = 0.0) -> None:
        super().__init__()
        self.components = nn.ModuleList(components)
        self.gate = gate
        self.balance_weight = balance_weight
        self.balance_scale = 1.0
        if len(self.components) != gate.num_components:
            raise ConfigError(f"the gate chooses among {gate.num_components} components, got {len(self.components)}")
        self.out_features = getattr(self.components[0], "out_features", None)

    @classmethod
    def second_order(
        cls,
        in_channels: int,
        num_components: PositiveInt = 16,
        top_k: PositiveInt | None = None,
        hidden_dim: PositiveInt = 256,
        reduced_dim: PositiveInt = 128,
        gate_dims: Sequence[PositiveInt] = (256, 128),
        num_iters: Iterations = 3,
        balance_weight: NonNegativeFloat = 0.0,
    ) -> "GatedMixture":
        """Build the paper's GM-SOP head: `ParametricSOP` components, second-order gate. Defaults are the ResNets'."""
        top_k = default_top_k(num_components) if top_k is None else top_k
        gate = TopKGate(in_channels, num_components, top_k, gate_dims, True, num_iters)
        components = (ParametricSOP(in_channels, hidden_dim, reduced_dim, num_iters) for _ in range(num_components))
        return cls(components, gate, balance_weight)

    @classmethod
    def first_order(
        cls,
        in_channels: int,
        num_components: PositiveInt = 16,
        top_k: PositiveInt | None = None,
        reduced_dim: PositiveInt = 512,
        gate_dims: Sequence[PositiveInt] = (256, 128),
        balance_weight: NonNegativeFloat = 0.0,
    ) -> "GatedMixture":
        """Build the paper's GM-GAP head: `ParametricGAP` components, first-order gate. Defaults are the ResNets'."""
        top_k = default_top_k(num_components) if top_k is None else top_k
        gate = TopKGate(in_channels, num_components, top_k, gate_dims, second_order=False)
        return cls((ParametricGAP(in_channels, reduced_dim) for _ in range(num_components)), gate, balance_weight)

    def forward(self, x: Tensor, return_routing: bool = False) -> Any:
        """Return the mixture's vector (B, V); with `return_routing` a tuple of it and the gate's `Routing`."""
        require_map("GatedMixture", x, self.gate.in_channels)
        x = in_dtype_of(self.gate.weight, x)
        routing = self.gate(x)
        out = like_input(self._mix(x, routing), x)
        if self.balance_weight and self.training and torch.is_grad_enabled():
            balance = balance_loss(routing.dense, across_ranks=True)
            out = _WithGradientOf.apply(out, self.balance_weight * self.balance_scale * balance)
        return (out, routing) if return_routing else out

    def _mix(self, x: Tensor, routing: Routing) -> Tensor:
        bank = bank_of(self.components)
        if bank is None:
            return self._one_by_one(x, routing)
        return weighted_sum(bank_forward(bank, x, routing.indices), routing.gates)

    def _one_by_one(self, x: Tensor, routing: Routing) -> Tensor:
        """Call each component that some image chose, which works for any components."""
        plan = plan_dispatch(routing.indices, len(self.components))
        outputs, idle = [], []
        for component, images in zip(self.components, dispatch(x, plan), strict=True):
            if len(images) or not len(x):  # an empty batch goes to all, for they tell the result's shape
                outputs.append(component(images))
            else:
                idle += [p for p in component.parameters() if p.requires_grad]
        out = combine(outputs, routing.gates, plan)
        return _ZeroGrad.apply(out, *idle) if idle and torch.is_grad_enabled() else out


class _WithGradientOf(torch.autograd.Function):
    """Passes its first argument on; in the backward pass the second is differentiated as if added to the loss."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, loss: Tensor) -> Tensor:
        ctx.save_for_backward(loss)
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        (loss,) = ctx.saved_tensors
        return grad, torch.ones_like(loss)


class _ZeroGrad(torch.autograd.Function):
    """Return the first argument; the others get a gradient of zeros."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return grad, *(torch.zeros_like(p) for p in ctx.saved_tensors)
