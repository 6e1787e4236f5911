"""These are the paper's residual networks for small images (64 x 64; any other size works), and one for a laptop."""

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint_sequential

from gmsop.backbones.protocol import BackboneModule, feature_take_indices
from gmsop.backbones.registry import register_backbone
from gmsop.errors import ConfigError
from gmsop.nn.init import he_normal_
from gmsop.utils.options import PositiveInt


class ConvNorm(nn.Module):
    """Apply a k x k convolution and BatchNorm. Weights start as the authors' do; there is no bias unless asked for."""

    def __init__(self, in_channels: int, out_channels: int, size: int, stride: int = 1, bias: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=bias)
        self.bn = nn.BatchNorm2d(out_channels)
        he_normal_(self.conv.weight)
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class BasicBlock(nn.Module):
    """Apply two 3x3 convolutions and add a shortcut: the input or, with `project`, a 1x1 convolution with BatchNorm."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, project: bool = False) -> None:
        super().__init__()
        self.shortcut = ConvNorm(in_channels, out_channels, 1, stride) if project else nn.Identity()
        self.a = ConvNorm(in_channels, out_channels, 3, stride)
        self.b = ConvNorm(out_channels, out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return (self.shortcut(x) + self.b(self.a(x).relu())).relu()


class SmallImageResNet(BackboneModule):
    """This network has a 3x3 stem, then stages of basic blocks, (B, in_chans, H, W) -> (B, widths[-1], h, w).

    Every stage but the first halves the resolution; for a second-order head the last one keeps it. So 64 x 64
    pixels become 8 x 8 positions for average pooling, 16 x 16 for a covariance.

    Args:
        blocks: basic blocks in each stage.
        widths: channels of each stage.
        in_chans: channels of the image.
        keep_resolution: leave the last stage at the resolution of the one before.
        project_first: give the first stage's first block the 1x1 shortcut (WRN); without it the first stage must be
            as wide as the stem.
        stem_width: channels of the stem.
        stem_stride: 1 in the paper.

    Raises:
        ConfigError: `blocks` and `widths` differ in length.

    Source: GM-SOP (NeurIPS 2018), section 4.1 and the official builders.
    """

    def __init__(
        self,
        blocks: Sequence[PositiveInt] = (2, 2, 2, 2),
        widths: Sequence[PositiveInt] = (16, 32, 64, 128),
        in_chans: PositiveInt = 3,
        keep_resolution: bool = False,
        project_first: bool = False,
        stem_width: PositiveInt = 16,
        stem_stride: PositiveInt = 1,
    ) -> None:
        super().__init__()
        if len(blocks) != len(widths):
            raise ConfigError(f"blocks {blocks} and widths {widths} must be of equal length")
        self.stem = ConvNorm(in_chans, stem_width, 3, stem_stride, bias=True)
        stages = []
        channels, reduction = stem_width, stem_stride
        self.in_chans, self.grad_checkpointing = in_chans, False
        self.feature_info = [{"num_chs": channels, "reduction": reduction, "module": "stem"}]
        for s, (depth, width) in enumerate(zip(blocks, widths, strict=True)):
            stride = 1 if s == 0 or (keep_resolution and s == len(blocks) - 1) else 2
            project = project_first if s == 0 else True
            stage = [BasicBlock(channels if b == 0 else width, width, stride if b == 0 else 1, project and b == 0)
                     for b in range(depth)]  # fmt: skip
            stages.append(nn.Sequential(*stage))
            channels, reduction = width, reduction * stride
            self.feature_info.append({"num_chs": channels, "reduction": reduction, "module": f"stages.{s}"})
        self.stages = nn.Sequential(*stages)
        self.num_features = channels

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        if self.grad_checkpointing and self.training:
            return checkpoint_sequential(list(self.stages), len(self.stages), x, use_reentrant=False)
        return self.stages(x)

    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the features for images of this size, in positions."""
        reduction = self.feature_info[-1]["reduction"]
        return -(-height // reduction), -(-width // reduction)

    def stem_parameters(self) -> list[nn.Parameter]:
        """Return the filters that see the image itself."""
        return [cast(nn.Parameter, self.stem.conv.weight)]

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Group parameters by stem and block, or by stem and stage if `coarse`."""
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute activations again in the backward pass, stage by stage, instead of keeping them."""
        self.grad_checkpointing = enable

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Give the features of several levels: 0 is the stem, then a level per stage.

        Args:
            indices: levels, or the number of last ones; None: all.
            norm: not used: no level has a norm of its own.
            stop_early: compute no level after the last that is asked for.
            output_fmt: "NCHW" is the only one.
            intermediates_only: leave out the last features.

        Raises:
            ConfigError: another layout.
        """
        if output_fmt != "NCHW":
            raise ConfigError(f"forward_intermediates: features are NCHW, not {output_fmt}")
        taken, last = feature_take_indices(len(self.stages) + 1, indices)
        levels = [x := self.stem(x).relu()]
        for stage in list(self.stages)[: last if stop_early else None]:
            levels.append(x := stage(x))
        found = [levels[i] for i in taken]
        return found if intermediates_only else (x, found)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the stages after the last level that is asked for."""
        taken, last = feature_take_indices(len(self.stages) + 1, indices)
        self.stages = self.stages[:last]
        return list(taken)


# The paper's input: pixels 0..255 minus the RGB mean, not divided by a standard deviation. In timm's units (pixels
# divided by 255 first) that is a standard deviation of 1/255. Images are squashed to a square by box filtering.
INPUT: dict[str, Any] = {
    "input_size": (3, 64, 64),
    "crop_pct": 1.0,
    "crop_mode": "squash",
    "interpolation": "box",
    "mean": (0.485, 0.456, 0.406),
    "std": (1 / 255, 1 / 255, 1 / 255),
    "first_conv": "stem.conv",
}

register_backbone("resnet18", SmallImageResNet, input=INPUT, paper=True, blocks=(2, 2, 2, 2))
# This ResNet-50 has basic blocks, not bottlenecks.
register_backbone("resnet50", SmallImageResNet, input=INPUT, paper=True, blocks=(6, 6, 6, 6))
register_backbone(
    "wrn36_2",
    SmallImageResNet,
    input=INPUT,
    paper=True,
    heads={
        "sr_sop": {"reduced_dim": 128},
        "parametric_sop": {"hidden_dim": 512, "drop_rate": 0.4},
        "gm_gap": {"gate_dims": (512,)},
        "gm_sop": {"hidden_dim": 512, "gate_dims": (512, 128), "drop_rate": 0.4},
    },
    blocks=(4, 4, 4, 4),
    widths=(32, 64, 128, 256),
    project_first=True,
)
# This one has three blocks, to train on the bundled sample images in ten minutes.
_MIXTURE = {"num_components": 4, "top_k": 2, "gate_dims": (64, 32), "drop_rate": 0.0}
register_backbone(
    "tiny",
    SmallImageResNet,
    input=INPUT,
    heads={
        "sr_sop": {"reduced_dim": 32},
        "parametric_sop": {"hidden_dim": 64, "reduced_dim": 32, "drop_rate": 0.0},
        "gm_gap": {"reduced_dim": 128, **_MIXTURE},
        "gm_sop": {"hidden_dim": 64, "reduced_dim": 32, **_MIXTURE},
    },
    blocks=(1, 1, 1),
    widths=(16, 32, 64),
    stem_stride=2,
)
