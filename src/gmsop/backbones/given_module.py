"""A `GivenModule` makes a backbone of a module that the caller built."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gmsop.backbones.dry_run import evaluating
from gmsop.backbones.protocol import BackboneModule
from gmsop.backbones.registry import register_backbone
from gmsop.errors import ConfigError
from gmsop.utils.options import NonNegativeInt, PositiveInt

Layout = Literal["NCHW", "NHWC", "NLC"]


class GivenModule(BackboneModule):
    """This holds any module that gives one map of features, or one list of tokens.

    Args:
        module: images (B, in_chans, H, W) to features.
        layout: "NCHW" (B, C, H, W), "NHWC" (B, H, W, C) or "NLC", tokens (B, N, C). It is stated, never guessed.
        num_prefix_tokens: of "NLC", how many tokens before those of the positions; the first is the class token.
        class_token: "drop" it, or "concat" it to the pooled vector.
        in_chans: channels of the images.
        image_size: height and width of an image that it takes, in pixels; one is sent through to see what comes out.

    Raises:
        ConfigError: it gives something else, or a single position; the text says what was found.
    """

    def __init__(
        self,
        module: nn.Module,
        layout: Layout = "NCHW",
        num_prefix_tokens: NonNegativeInt = 0,
        class_token: Literal["drop", "concat"] = "drop",
        in_chans: int = 3,
        image_size: PositiveInt = 224,
    ) -> None:
        super().__init__()
        self.model, self.output_fmt, self.num_prefix_tokens = module, layout, num_prefix_tokens
        self.class_token, self.in_chans, self.image_size = class_token, in_chans, image_size
        self.feature_info = []
        shape = self._shape((image_size, image_size))
        self.num_features = shape[1 if layout == "NCHW" else -1]
        if class_token == "concat" and not num_prefix_tokens:
            raise ConfigError("class_token: concat needs num_prefix_tokens, the first of which is the class token")
        self.token_features = self.num_features if class_token == "concat" else 0

    def _shape(self, size: Sequence[int]) -> tuple[int, ...]:
        like = next(self.model.parameters(), torch.zeros(()))
        try:
            with evaluating(self.model), torch.no_grad():
                out: Any = self.model(torch.zeros(2, self.in_chans, *size, device=like.device, dtype=like.dtype))
        except Exception as error:
            raise ConfigError(
                f"{type(self.model).__name__} does not take images (2, {self.in_chans}, {size[0]}, {size[1]}): "
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            ) from error
        shape = tuple(out.shape) if isinstance(out, Tensor) else ()
        axes = 3 if self.output_fmt == "NLC" else 4
        wanted = {"NCHW": "(B, C, H, W)", "NHWC": "(B, H, W, C)", "NLC": "(B, N, C)"}[self.output_fmt]
        what = f"{type(self.model).__name__} is no backbone for a pooling head: looked for features {wanted}"
        if len(shape) != axes:
            found = f"shape {shape}" if shape else type(out).__name__
            other = {2: ": pooled already, or logits", 3: "; tokens are layout='NLC'"}.get(len(shape), "")
            raise ConfigError(f"{what}, found {found}{other}")
        if self.output_fmt == "NCHW" and size[0] == size[1] and shape[1] == shape[2] != shape[3]:
            raise ConfigError(f"{what}, found shape {shape} for square images: is its layout 'NHWC'? Say layout='NHWC'")
        places = {"NCHW": shape[2:], "NHWC": shape[1:3], "NLC": (shape[1] - self.num_prefix_tokens,)}[self.output_fmt]
        if torch.Size(places).numel() < 2:
            raise ConfigError(f"{what} of more than one position, found shape {shape} for images of {size[0]} pixels")
        return shape

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the features for images of this size; for tokens, their number and 1."""
        shape = self._shape((height, width))
        if self.output_fmt == "NLC":
            return shape[1] - self.num_prefix_tokens, 1
        return (shape[2], shape[3]) if self.output_fmt == "NCHW" else (shape[1], shape[2])


def _not_again(
    note: str = "",
    in_chans: int = 3,
    keep_resolution: bool = False,
    layout: Layout = "NCHW",
    num_prefix_tokens: NonNegativeInt = 0,
    class_token: Literal["drop", "concat"] = "drop",
    image_size: PositiveInt = 224,
    layers: Sequence[str] | None = None,
) -> BackboneModule:
    """Refuse to build: only the module's user can. The options are those by which it became a backbone."""
    raise ConfigError(
        f"the backbone was a module that gmsop cannot build again: {note}. Build it and give it to "
        "gmsop.load_model(path, backbone=module)"
    )


register_backbone("module", _not_again, named=False, input={})
