"""Ridge classification from a matrix of inner products, with the leave-one-out error of every penalty in closed form.

It is `sklearn.linear_model.RidgeClassifier` (targets 1 and -1, one class against the rest, an intercept without
penalty). Working on inner products has two gains: vectors may be far longer than there are images, and layers beside
each other are a sum of matrices.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class RidgePath:
    """Holds the decomposition from which every penalty's answers follow.

    Source: Rifkin and Lippert, "Notes on Regularized Least Squares" (2007), section 3, for leave-one-out.
    """

    values: Tensor
    vectors: Tensor
    rotated: Tensor
    means: Tensor
    kernel_means: Tensor
    kernel_mean: Tensor

    @classmethod
    def of(cls, kernel: Tensor, labels: NDArray[np.int64], classes: int) -> "RidgePath":
        """Decompose the inner products (n, n), float64, of the training images."""
        targets = -torch.ones(len(labels), classes, dtype=torch.float64)
        targets[torch.arange(len(labels)), torch.from_numpy(labels)] = 1
        means, rows = targets.mean(0), kernel.mean(0)
        centred = kernel - rows - rows[:, None] + rows.mean()
        values, vectors = torch.linalg.eigh(centred)
        return cls(values.clamp(min=0), vectors, vectors.T @ (targets - means), means, rows, rows.mean())

    def dual(self, penalty: float) -> Tensor:
        """Return the weight of every training image in every class's answer, (n, classes)."""
        return self.vectors @ (self.rotated / (self.values + penalty)[:, None])

    def leave_one_out(self, penalty: float) -> Tensor:
        """Return each training image's scores (n, classes), by the classifier that was fitted without it."""
        count = len(self.values)
        inverse = 1 / (self.values + penalty)
        residual = penalty * self.dual(penalty)
        kept = penalty * (self.vectors.square() @ inverse) - 1 / count  # 1 - H_ii, H the hat matrix with intercept
        targets = self.vectors @ self.rotated + self.means
        return targets - residual / kept.clamp(min=1e-12)[:, None]

    def scores(self, kernel: Tensor, penalty: float) -> Tensor:
        """Return the scores (m, classes) of other images, given their inner products (m, n) with the n of training."""
        centred = kernel - kernel.mean(1, keepdim=True) - self.kernel_means + self.kernel_mean
        return centred @ self.dual(penalty) + self.means


@dataclass(frozen=True)
class Choice:
    """Holds what was chosen inside the training images, and how it did there."""

    setting: dict[str, float]
    wrong: float
    """Share of the training images that were wrong, each left out in turn (or held out)."""
    loss: float
    """Breaks ties: the mean squared difference from the targets, or the cross-entropy."""

    def key(self) -> tuple[float, float]:
        """Return what choices are compared by: less is better."""
        return self.wrong, self.loss


def best_penalty(path: RidgePath, labels: NDArray[np.int64], penalties: list[float]) -> Choice:
    """Choose the penalty with the fewest leave-one-out errors; of equals, the one with the least squared error."""
    targets = path.vectors @ path.rotated + path.means
    found = []
    for penalty in penalties:
        scores = path.leave_one_out(penalty)
        wrong = float((scores.argmax(1) != torch.from_numpy(labels)).double().mean())
        found.append(Choice({"penalty": penalty}, wrong, float((scores - targets).square().mean())))
    return min(found, key=Choice.key)
