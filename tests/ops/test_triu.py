import pytest
import torch

from gmsop import ops
from gmsop.errors import ConfigError
from gmsop.ops.second_order import reference


def test_order_is_column_by_column():
    # [[a, b, d],
    #  [., c, e],      ->  a, b, c, d, e, f
    #  [., ., f]]
    a = torch.tensor([[1.0, 2, 4], [-1, 3, 5], [-1, -1, 6]])
    assert ops.triu_vectorize(a[None]).tolist() == [[1, 2, 3, 4, 5, 6]]


@pytest.mark.parametrize("dim", [1, 2, 7, 63, 128])
def test_equals_the_oracle_and_inverts(dim):
    a = torch.randn(3, dim, dim, dtype=torch.double)
    a = (a + a.mT).requires_grad_()
    v = ops.triu_vectorize(a)
    assert v.shape == (3, ops.triu_size(dim))
    assert torch.equal(v, reference.triu_vectorize(a))
    assert torch.equal(ops.triu_unvectorize(v), a)
    weight = torch.randn_like(v)
    gradients = [
        torch.autograd.grad((f(a) * weight).sum(), a)[0] for f in (ops.triu_vectorize, reference.triu_vectorize)
    ]
    assert torch.equal(*gradients)


def test_d128_gives_8256():
    assert ops.triu_size(128) == 8256


def test_unvectorize_gradcheck():
    v = torch.randn(2, 6, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(ops.triu_unvectorize, v)


def test_bad_input_is_named():
    with pytest.raises(ConfigError, match=r"\(B, D, D\)"):
        ops.triu_vectorize(torch.randn(2, 3, 4))
    for bad in (torch.randn(2, 7), torch.randn(6)):
        with pytest.raises(ConfigError, match=r"D\(D\+1\)/2"):
            ops.triu_unvectorize(bad)
