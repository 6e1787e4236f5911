"""A `BackboneModule` is what every backbone can be asked, whatever network is in it."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from gmsop.errors import ConfigError


def feature_take_indices(levels: int, indices: int | Sequence[int] | None) -> tuple[list[int], int]:
    """Return which of so many levels are asked for, and the last of them, as timm counts.

    Args:
        indices: levels, negative ones from the end; or the number of last ones; None: all.

    Raises:
        ConfigError: a level that is not there.
    """
    if indices is None:
        indices = levels
    last = list(range(levels))
    asked = last[-indices:] if isinstance(indices, int) and 0 < indices <= levels else []
    if not isinstance(indices, int):
        asked = [last[i] for i in indices if -levels <= i < levels]
    if len(asked) != (indices if isinstance(indices, int) else len(indices)) or not asked:
        raise ConfigError(f"there are {levels} levels of features, asked for were {indices}")
    return asked, max(asked)


class BackboneModule(nn.Module):
    """This is the network before the head. Axes: B images, C channels, M positions (or patch tokens).

    `forward` gives features as the network has them: (B, C, H, W), (B, H, W, C) where `output_fmt` is "NHWC", or tokens
    (B, N, C) where it is "NLC". `positions` turns them into what a head pools. A subclass sets the attributes.
    """

    num_features: int
    """C."""
    in_chans: int = 3
    """Channels of the images."""
    output_fmt: str = "NCHW"
    """How `forward` lays out features: "NCHW", "NHWC" or "NLC"."""
    num_prefix_tokens: int = 0
    """Tokens that stand before those of the positions, the class token first."""
    token_features: int = 0
    """Numbers of the class token that stand beside the pooled vector; 0: none."""
    feature_info: list[dict[str, Any]]
    """Channels, reduction and name of every level of features, as timm describes them."""

    def positions(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Turn features into a map (B, C, H, W), tokens into (B, C, M, 1); and the class token (B, C), or None."""
        if self.output_fmt == "NHWC":
            return features.permute(0, 3, 1, 2), None
        if self.output_fmt == "NCHW":
            return features, None
        token = features[:, 0] if self.token_features else None
        return features[:, self.num_prefix_tokens :].transpose(1, 2).unsqueeze(3), token

    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the features for images of this size, in positions."""
        raise NotImplementedError

    def stem_parameters(self) -> list[nn.Parameter]:
        """Return the filters that see the image itself."""
        return []

    def group_matcher(self, coarse: bool = False) -> Any:
        """Group parameters by layer, first to last, as timm does; names are this module's.

        Raises:
            ConfigError: the network does not say what its layers are.
        """
        raise ConfigError(f"{type(self).__name__} does not say what its layers are: no rates by layer")

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters that no weight decay should shrink."""
        return set()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute activations again in the backward pass instead of keeping them.

        Raises:
            ConfigError: the network cannot.
        """
        if enable:
            raise ConfigError(f"{type(self).__name__} has no gradient checkpointing")

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Give the features of several levels, as timm's models do.

        Returns:
            The last features and a list of maps, one for each of `indices`; the list alone with `intermediates_only`.

        Raises:
            ConfigError: the network has no levels that can be asked for.
        """
        raise ConfigError(f"{type(self).__name__} has no intermediate features that can be asked for")

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the layers after the last level that is asked for, as timm's models do."""
        raise ConfigError(f"{type(self).__name__} has no intermediate features that can be asked for")
