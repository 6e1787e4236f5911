"""These functions are the sparsity-constrained gate: noisy logits, top-K, softmax over the selected, balance loss.

Axes: B images, N components, K = top_k, F gate features.
"""

from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from gmsop.errors import ConfigError
from gmsop.ops.observers import is_exporting
from gmsop.ops.precision import at_least_float32, no_autocast


def gate_logits(
    features: Tensor, weight: Tensor, noise_weight: Tensor | None = None, noise: Tensor | None = None
) -> Tensor:
    """Return one score per image and component, `H = W_g f + softplus(W_n f) * noise`.

    The noise is ONE number per image, shared by all components: it sharpens or flattens the image's scores, and where
    the learned `W_n` differs between components it reorders them. All is computed in float32 or better, since
    rounding to bfloat16 would create ties.

    Args:
        features: (B, F).
        weight: W_g, (N, F).
        noise_weight: W_n, (N, F); needed with `noise`.
        noise: (B,), standard normal in training; None in evaluation.

    Returns:
        (B, N).

    Source: GM-SOP (NeurIPS 2018), equation 3; the noise as in the official code.
    """
    with no_autocast(features):
        features = at_least_float32(features)
        logits = F.linear(features, weight.to(features.dtype))
        if noise is None:
            return logits
        if noise_weight is None:
            raise ConfigError("gate_logits: noise needs noise_weight")
        spread = F.linear(features, noise_weight.to(features.dtype))
        # Not F.softplus, which turns linear at 20 and is off by 1e-10 there.
        softplus = torch.logaddexp(spread, torch.zeros_like(spread))
        return logits + softplus * noise.to(features.dtype)[:, None]


def top_k_indices(logits: Tensor, k: int, random_ties: bool = False, generator: Generator | None = None) -> Tensor:
    """Return the k components of highest score per image, best first.

    Args:
        logits: (B, N).
        k: 1 to N.
        random_ties: choose at random among equal scores (training: all components start equal, and a fixed choice
            would train the first k only). Otherwise the lowest index wins (evaluation). The official code draws at
            random only when the whole batch ties; here ties of any single image are drawn.
        generator: source of the draw; PyTorch's default for the device if None.

    Returns:
        (B, k), int64.

    Raises:
        ConfigError: k is below 1 or above N; `logits` does not have two axes.
    """
    if logits.dim() != 2:
        raise ConfigError(f"top_k_indices: expected scores (B, N), got shape {tuple(logits.shape)}")
    n = logits.shape[1]
    if not 1 <= k <= n:
        raise ConfigError(f"top_k must be between 1 and the number of components, {n}; got {k}")
    if is_exporting():  # ONNX has no stable sort, so each score's place is counted, equal ones by their index
        left, right = logits[:, None, :], logits[:, :, None]
        earlier = torch.ones(n, n, dtype=torch.bool, device=logits.device).tril(-1)
        place = ((left > right) | ((left == right) & earlier)).sum(2)
        return place.topk(k, dim=1, largest=False).indices
    if not random_ties:
        return logits.argsort(dim=1, descending=True, stable=True)[:, :k]
    # A stable sort of shuffled columns: equal scores come out in random order, different ones are untouched.
    if generator is None:  # torch.compile does not know that argument
        shuffle = torch.rand(logits.shape, device=logits.device).argsort(dim=1)
    else:
        shuffle = torch.rand(logits.shape, device=logits.device, generator=generator).argsort(dim=1)
    order = logits.gather(1, shuffle).argsort(dim=1, descending=True, stable=True)[:, :k]
    return shuffle.gather(1, order)


def top_k_gates(logits: Tensor, indices: Tensor) -> Tensor:
    """Return the softmax over the selected scores only, (B, N) and (B, K) to (B, K).

    A selected score that is exactly 0 counts like any other. The official code drops it (weight 0, though the image is
    still sent to the component): a side effect of marking the unselected by zeros, not copied here.

    Source: GM-SOP (NeurIPS 2018), equation 2.
    """
    return logits.gather(1, indices).softmax(1)


def dense_gates(gates: Tensor, indices: Tensor, num_components: int) -> Tensor:
    """Return the weights of all components, (B, N): `gates` (B, K) at `indices` (B, K), zero elsewhere."""
    return gates.new_zeros(gates.shape[0], num_components).scatter(1, indices, gates)


def balance_loss(gates: Tensor, across_ranks: bool = False) -> Tensor:
    """Return `(std(w) / mean(w))^2` of the components' total weights w: their squared coefficient of variation.

    The standard deviation is the unbiased one (N - 1). The paper adds 100 times this to a cross-entropy SUMMED over the
    batch, which is `100 / batch_size` times this against a mean cross-entropy. A single component has nothing to
    balance: 0.

    Args:
        gates: weights of all components, (B, N), as `dense_gates` gives them.
        across_ranks: take the batches of all ranks of `torch.distributed`, where it is initialised, as one. Every rank
            gets the same loss. `DistributedDataParallel` takes the mean of the ranks' gradients, which is then the
            gradient of one process with the whole batch.

    Returns:
        Scalar; 0 where all weights are 0, as of no image. Its gradient is finite also at perfect balance, where that
        of `std` is not.

    Source: GM-SOP (NeurIPS 2018), equation 6; Shazeer et al. (ICLR 2017) call it the importance loss.
    """
    if gates.dim() != 2:
        raise ConfigError(f"balance_loss: expected gate weights (B, N), got shape {tuple(gates.shape)}")
    if gates.shape[1] == 1:
        return gates.sum() * 0
    load = gates.sum(0)
    if across_ranks and torch.distributed.is_available() and torch.distributed.is_initialized():
        load = _SumOverRanks.apply(load)
    square = load.mean().square()
    return load.var() / torch.where(square == 0, torch.ones_like(square), square)


class _SumOverRanks(torch.autograd.Function):
    """Sum over the ranks. Each rank's value reaches the loss of every rank, so the gradient is summed over them too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone()
        torch.distributed.all_reduce(total)
        return total
