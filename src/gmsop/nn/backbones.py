"""The paper's residual networks for small images (64 x 64; any other size works)."""

from collections.abc import Sequence

from torch import Tensor, nn

from gmsop.nn.init import he_normal_


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
        second_order: keep the resolution in the last stage.
        project_first: give the first stage's first block the 1x1 shortcut (WRN); without it the first stage must be
            as wide as the stem.
        stem_width: channels of the stem.
        stem_stride: 1 in the paper.

    Source: GM-SOP (NeurIPS 2018), section 4.1 and the official builders.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        widths: Sequence[int],
        in_chans: int = 3,
        second_order: bool = False,
        project_first: bool = False,
        stem_width: int = 16,
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        self.stem = ConvNorm(in_chans, stem_width, 3, stem_stride, bias=True)
        stages = []
        channels = stem_width
        for s, (depth, width) in enumerate(zip(blocks, widths, strict=True)):
            stride = 1 if s == 0 or (second_order and s == len(blocks) - 1) else 2
            project = project_first if s == 0 else True
            stage = [BasicBlock(channels if b == 0 else width, width, stride if b == 0 else 1, project and b == 0)
                     for b in range(depth)]  # fmt: skip
            stages.append(nn.Sequential(*stage))
            channels = width
        self.stages = nn.Sequential(*stages)
        self.num_features = channels

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(self.stem(x).relu())
