import pytest
import torch

from gmsop.backbones.small import SmallImageResNet

WIDTHS = (16, 32, 64, 128)


@pytest.mark.parametrize(("second_order", "side"), [(False, 8), (True, 16)])
def test_the_last_stage_keeps_its_resolution_for_second_order_heads(second_order, side):
    net = SmallImageResNet((2, 2, 2, 2), WIDTHS, keep_resolution=second_order)
    assert net(torch.randn(1, 3, 64, 64)).shape == (1, 128, side, side)


@pytest.mark.parametrize("size", [(32, 32), (100, 100), (65, 47)])
@pytest.mark.parametrize("in_chans", [1, 3, 12])
def test_any_size_and_number_of_channels(size, in_chans):
    net = SmallImageResNet((1, 1, 1, 1), (4, 8, 8, 8), in_chans=in_chans, stem_width=4, keep_resolution=True)
    h, w = (-(-s // 4) for s in size)
    assert net(torch.randn(2, in_chans, *size)).shape == (2, 8, h, w)


def test_shortcuts():
    resnet = SmallImageResNet((2, 2, 2, 2), WIDTHS)
    wide = SmallImageResNet((2, 2, 2, 2), (32, 64, 128, 256), project_first=True)
    projections = [
        [isinstance(block.shortcut, torch.nn.Identity) for stage in net.stages for block in stage]
        for net in (resnet, wide)
    ]
    assert projections == [[True, True, *[False, True] * 3], [False, True] * 4]


def test_initialisation_is_he_normal_and_only_the_stem_has_a_bias():
    net = SmallImageResNet((2, 2, 2, 2), WIDTHS)
    with_bias = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d) and m.bias is not None]
    assert with_bias == [net.stem.conv]
    assert net.stages[3][1].b.conv.weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)
