"""The paper's residual networks for small images (64 x 64; any other size works), and one for a laptop."""

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from gmsop.backbones.registry import register_backbone
from gmsop.errors import ConfigError
from gmsop.nn.init import he_normal_
from gmsop.utils.options import PositiveInt


class ConvNorm(nn.Module):
    """k x k convolution and BatchNorm. Initialised as the authors do, no bias unless asked."""

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
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution with BatchNorm where `project` says so."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, project: bool = False) -> None:
        super().__init__()
        self.shortcut = ConvNorm(in_channels, out_channels, 1, stride) if project else nn.Identity()
        self.a = ConvNorm(in_channels, out_channels, 3, stride)
        self.b = ConvNorm(out_channels, out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return (self.shortcut(x) + self.b(self.a(x).relu())).relu()


class SmallImageResNet(nn.Module):
    """3x3 stem, then stages of basic blocks. (B, in_chans, H, W) -> (B, widths[-1], h, w).

    Every stage but the first halves the resolution, except that the last keeps it for a second-order head: 64 x 64
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
        ConfigError: `blocks` and `widths` are not of one length.

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
        channels = stem_width
        self.in_chans, self.reduction = in_chans, stem_stride
        for s, (depth, width) in enumerate(zip(blocks, widths, strict=True)):
            stride = 1 if s == 0 or (keep_resolution and s == len(blocks) - 1) else 2
            self.reduction *= stride
            project = project_first if s == 0 else True
            stage = [BasicBlock(channels if b == 0 else width, width, stride if b == 0 else 1, project and b == 0)
                     for b in range(depth)]  # fmt: skip
            stages.append(nn.Sequential(*stage))
            channels = width
        self.stages = nn.Sequential(*stages)
        self.num_features = channels

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(self.stem(x).relu())

    def stem_parameters(self) -> list[nn.Parameter]:
        """The filters that see the image itself."""
        return [cast(nn.Parameter, self.stem.conv.weight)]


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

register_backbone("resnet18", SmallImageResNet, input=INPUT, rows=True, blocks=(2, 2, 2, 2))
# Basic blocks, not bottlenecks.
register_backbone("resnet50", SmallImageResNet, input=INPUT, rows=True, blocks=(6, 6, 6, 6))
register_backbone(
    "wrn36_2",
    SmallImageResNet,
    input=INPUT,
    rows=True,
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
# Three blocks, for the bundled sample images and ten minutes.
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
