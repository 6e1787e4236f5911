"""Weights start as in the official code."""

import math

from torch import Tensor, nn


def he_normal_(weight: Tensor) -> None:
    """Draw weights from a normal of standard deviation sqrt(2 / fan_in), for convolutions and the classifier alike."""
    nn.init.normal_(weight, std=math.sqrt(2 / weight[0].numel()))
