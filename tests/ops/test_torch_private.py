"""PyTorch's private names may go: without each of them the operators give the same numbers, if slower."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils import _python_dispatch
from torch.utils.flop_counter import FlopCounterMode

from compare import relative_error
from gmsop import ops
from gmsop.nn import GatedMixture
from gmsop.ops import torch_private

NAMES = [
    (torch._C, "_dispatch_tls_local_include_set"),
    (torch._C, "DispatchKey"),
    (torch._C, "DispatchKeySet"),
    (torch._C, "_are_functorch_transforms_active"),
    (forward_ad, "_current_level"),
    (torch.compiler, "_is_exporting_flag"),
]


def numbers() -> list[torch.Tensor]:
    """What every operator gives: in inference, with gradients, within a transform, differentiated forwards."""
    torch.manual_seed(0)
    x = torch.randn(3, 6, 4, 4, dtype=torch.double)
    head = GatedMixture.second_order(6, 4, 2, hidden_dim=8, reduced_dim=5, gate_dims=(4,)).double().eval()
    torch.nn.init.normal_(head.gate.weight)
    with torch.no_grad():
        found = [head(x), ops.second_order_pool(x)]
    images = x.clone().requires_grad_()
    found += torch.autograd.grad(head(images).square().sum(), [images, *head.components.parameters()])
    found += torch.func.jvp(ops.second_order_pool, (x,), (x.sin(),))
    found.append(torch.func.vmap(torch.func.grad(lambda one: ops.second_order_pool(one[None]).sum()))(x))
    return found


@pytest.mark.parametrize(("owner", "name"), NAMES, ids=lambda value: value if isinstance(value, str) else "")
def test_without_a_private_name(owner, name, monkeypatch):
    expected, look_up = numbers(), torch_private._private
    asked = []

    def hidden(place, asked_for):
        asked.append((place, asked_for))
        return torch_private._MISSING if (place, asked_for) == (owner, name) else look_up(place, asked_for)

    torch_private._usual_keys.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(torch_private, "_private", hidden)
        found = numbers()
        torch_private._usual_keys.cache_clear()
    assert (owner, name) in asked
    for a, b in zip(found, expected, strict=True):
        assert relative_error(a, b) < 1e-12


def test_no_other_file_uses_private_names_of_torch():
    import re
    from pathlib import Path

    for file in Path(torch_private.__file__).parents[1].rglob("*.py"):
        if file.name != "torch_private.py":
            assert not re.search(r"torch(\.\w+)*\._[a-zA-Z]|forward_ad\._|from torch\.\S*_C", file.read_text()), file


def test_modes_that_look_on_are_seen_as_long_as_pytorch_tells(monkeypatch):
    with FlopCounterMode(display=False):
        assert torch_private.has_dispatch_mode()
        monkeypatch.delattr(_python_dispatch, "_get_current_dispatch_mode")
        assert not torch_private.has_dispatch_mode()
