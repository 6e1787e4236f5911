"""`features_of` cuts out what a torchvision classification model computes before it pools."""

from typing import Any

import torch
from torch import Tensor, nn

from gmsop.errors import ConfigError


def features_of(module: nn.Module, in_chans: int = 3) -> tuple[nn.Module, dict[str, Any]] | None:
    """Cut a torchvision classification model before its pooling.

    The model is traced, and the last map (B, C, H, W) of more than one position is taken; of a vision transformer the
    last list of tokens, whose first is the class token.

    Returns:
        The network up to there, with its parameters, and the options of `GivenModule`; None of other modules.

    Raises:
        ConfigError: the model, such as one that finds objects, cannot be traced, or has no such map.
    """
    if not type(module).__module__.startswith("torchvision.models"):
        return None
    training = module.training
    try:
        return _cut(module.eval(), training, in_chans)
    except Exception as error:  # of tracing, or of a call that the model does not take
        reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:160]}"
        raise ConfigError(
            f"{type(module).__name__} of torchvision is no backbone for a pooling head: looked for the last map "
            f"(B, C, H, W), or tokens (B, N, C), of a classification model by tracing it; found {reason}"
        ) from error
    finally:
        module.train(training)


def _cut(module: nn.Module, training: bool, in_chans: int) -> tuple[nn.Module, dict[str, Any]]:
    from torchvision.models.feature_extraction import create_feature_extractor

    size = int(getattr(module, "image_size", 224))
    traced = create_feature_extractor(module, _node_names(module))
    like = next(module.parameters())
    with torch.no_grad():
        found: dict[str, Any] = traced(torch.zeros(1, in_chans, size, size, device=like.device, dtype=like.dtype))
    shapes = {name: tuple(out.shape) for name, out in found.items() if isinstance(out, Tensor)}
    maps = [name for name, shape in shapes.items() if len(shape) == 4 and min(shape[2:]) > 1]
    tokens = [name for name, shape in shapes.items() if len(shape) == 3 and shape[1] > 2]
    order = list(shapes)
    is_transformer = bool(tokens) and (not maps or order.index(tokens[-1]) > order.index(maps[-1]))
    node = tokens[-1] if is_transformer else maps[-1]
    cut = create_feature_extractor(module, {node: "features"})
    layout = {"layout": "NLC", "num_prefix_tokens": 1} if is_transformer else {"layout": "NCHW"}
    return _One(cut.train(training)), layout | {"image_size": size}


def _node_names(module: nn.Module) -> list[str]:
    from torchvision.models.feature_extraction import get_graph_node_names

    _, names = get_graph_node_names(module)
    return [str(name) for name in names if name not in ("x", "input")]


class _One(nn.Module):
    """Return the single output of a feature extractor."""

    def __init__(self, cut: nn.Module) -> None:
        super().__init__()
        self.cut = cut

    def forward(self, x: Tensor) -> Tensor:
        out: dict[str, Tensor] = self.cut(x)
        return out["features"]
