"""Covariance and square root against the authors' compiled operators, forward and backward."""

import pytest
import torch

from compare import GOLDEN, golden, relative_error, symmetrised
from gmsop import ops

FILES = sorted(path.name for path in (GOLDEN / "mexops").glob("*.npz"))


@pytest.mark.parametrize("name", FILES)
def test_every_stage(name):
    z = {k: torch.from_numpy(v) for k, v in golden(f"mexops/{name}").items()}
    bound = 1e-4 if "single" in name else 1e-10
    iters = int(z["iterNum"])
    x = z["x"].requires_grad_()

    cov = ops.covariance_pool(x)
    root = ops.newton_schulz_sqrt(cov, iters)
    out = ops.triu_vectorize(root)
    assert relative_error(cov, z["cov"]) < bound
    assert relative_error(out, z["out"]) < bound

    g_root, g_cov, g_x = torch.autograd.grad(out, (root, cov, x), z["g_out"])
    assert relative_error(ops.triu_vectorize(g_root), z["g_out"]) == 0
    # The official gradient stands on the upper triangle; ours is the symmetric one of the same function.
    assert relative_error(g_cov, symmetrised(z["g_cov"])) < bound
    assert relative_error(g_x, z["g_x"]) < bound


@pytest.mark.parametrize("name", FILES)
def test_the_square_root_without_its_scale(name):
    """On a matrix of trace 1 the scale is 1, and its gradient along the identity is the official one's trace part."""
    z = {k: torch.from_numpy(v) for k, v in golden(f"mexops/{name}").items()}
    bound = 1e-4 if "single" in name else 1e-10
    out = ops.triu_vectorize(ops.newton_schulz_sqrt(z["cov_tr_normalised"], int(z["iterNum"])))
    assert relative_error(out, z["sqrt_triu"]) < bound


def test_a_gradient_is_expected_at_all():
    z = golden(f"mexops/{FILES[0]}")
    assert abs(z["g_x"]).max() > 1e-3
