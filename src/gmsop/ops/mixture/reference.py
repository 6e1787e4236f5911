"""This is the slow, obvious version of every operator of the mixture, with which the tests compare.

It is written to be read next to the paper: one image at a time, plain autograd, no special cases. Give it float64.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def gate_logits(
    features: Tensor, weight: Tensor, noise_weight: Tensor | None = None, noise: Tensor | None = None
) -> Tensor:
    """Return the scores, (B, N), of features (B, F)."""
    out = []
    for b, f in enumerate(features):
        h = weight @ f
        if noise is not None and noise_weight is not None:
            h = h + torch.log(1 + torch.exp(noise_weight @ f)) * noise[b]
        out.append(h)
    return torch.stack(out)


def mixture(
    x: Tensor, logits: Tensor, top_k: int, components: Sequence[Callable[[Tensor], Tensor]]
) -> tuple[Tensor, Tensor]:
    """Return the weighted sum (B, V) of each image's top_k components, and all components' weights (B, N)."""
    sums, weights = [], []
    for image, h in zip(x, logits, strict=True):
        best = sorted(range(len(h)), key=lambda n: -h[n].item())[:top_k]
        total = sum(h[n].exp() for n in best)
        sums.append(sum(h[n].exp() / total * components[n](image[None])[0] for n in best))
        weights.append(torch.stack([h[n].exp() / total if n in best else 0 * h[n] for n in range(len(h))]))
    return torch.stack([torch.as_tensor(s) for s in sums]), torch.stack(weights)


def balance_loss(gates: Tensor) -> Tensor:
    """Return the balance loss, a scalar, of weights (B, N)."""
    n = gates.shape[1]
    load = [gates[:, i].sum() for i in range(n)]
    mean = torch.stack(load).mean()
    variance = sum(((w - mean) ** 2 for w in load), torch.zeros_like(mean)) / (n - 1)
    return variance / mean**2 if mean else variance


def component_conv(x: Tensor, layers: Sequence[Sequence[Tensor]], chosen: Tensor) -> Tensor:
    """Return (B * K, O, M) of features (B, C, M), for each layer N weights (O, C), and the choices (B, K)."""
    pairs = []
    for b, row in enumerate(chosen.tolist()):
        for n in row:
            y = x[b]
            for weights in layers:
                y = (weights[n] @ y).clamp(min=0)
            pairs.append(y)
    return torch.stack(pairs)
