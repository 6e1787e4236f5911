"""These are the error rates and parameter counts that the authors published. None of them was measured here."""

from typing import NamedTuple

PAPER = "Wang, Gao, Xie, Zuo, Li: Global Gated Mixture of Second-order Pooling, NeurIPS 2018"


class Result(NamedTuple):
    """A result is one row of the tables in the paper or its README: top-1 / top-5 error in percent."""

    model: str
    dataset: str
    top1: float
    top5: float | None
    params_millions: float | None = None
    released: tuple[float, float] | None = None
    """Top-1 / top-5 error of the weights the authors released, where they did."""
    note: str = ""


IMAGENET64 = "ImageNet 64x64"
PLACES100 = "Places-365 100x100"

RESULTS = (
    Result("gap_resnet18", IMAGENET64, 52.00, 26.97, 0.9, (52.17, 27.09)),
    Result("gap_512_resnet18", IMAGENET64, 49.08, 24.25, 1.3),
    Result("gap_8256_resnet18", IMAGENET64, 47.29, None, 10.0),
    Result("sr_sop_resnet18", IMAGENET64, 40.32, 18.94, 9.0, (40.56, 19.08)),
    Result("gap_resnet50", IMAGENET64, 43.28, 19.39, 2.4),
    Result("gap_512_resnet50", IMAGENET64, 41.79, 18.30, 2.8),
    Result("gap_8256_resnet50", IMAGENET64, 41.42, 18.14, 11.6),
    Result("gm_gap_16_8_resnet18", IMAGENET64, 42.37, 18.82, 2.3, (42.25, 19.46)),
    Result("gm_gap_16_8_resnet18", IMAGENET64, 40.03, 17.91, 2.3, note="twice the images: flips added"),
    Result("gm_gap_16_8_wrn36_2", IMAGENET64, 35.97, 14.41, 8.7, (35.98, 14.62)),
    Result("gm_sop_16_8_resnet18", IMAGENET64, 38.21, 17.01, 10.3, (38.48, 17.38)),
    Result("gm_sop_16_8_resnet50", IMAGENET64, 35.73, 14.96, 11.9),
    Result("gm_sop_16_8_wrn36_2", IMAGENET64, 32.33, 12.35, 15.7, (32.71, 12.44)),
    Result("gap_512_resnet18", PLACES100, 49.96, 19.19),
    Result("gm_gap_16_8_resnet18", PLACES100, 48.07, 17.84),
    Result("gap_8256_resnet18", PLACES100, 49.99, 19.32),
    Result("sr_sop_resnet18", PLACES100, 48.11, 18.01),
    Result("parametric_sop_resnet18", PLACES100, 47.48, 17.52),
    Result("gm_sop_16_8_resnet18", PLACES100, 47.18, 17.02),
)

PARAMETER_NOTES = {
    "gap_resnet18": "829,192 learnable parameters round to 0.8 M; the authors print 0.9 M.",
    "gm_sop_16_8_resnet18": "10,352,776 learnable parameters round to 10.4 M; the authors print 10.3 M.",
    "gm_sop_16_8_wrn36_2": (
        "The released builder gives 17.8 M, as here; the authors print 15.7 M, so their model was probably narrower. "
        "`gmsop convert` reads the widths from the file."
    ),
}
"""Models whose parameter count does not round to the authors' number, and why."""


class System(NamedTuple):
    """A network at 224 pixels, as its own authors and those of iSQRT-COV published it."""

    multiply_adds: float
    """Billions of multiply-adds of one image, with average pooling."""
    gap: float
    """Top-1 error in percent with average pooling, single centre crop."""
    isqrt_cov: float | None = None
    """Top-1 error with iSQRT-COV in its paper."""
    isqrt_cov_released: float | None = None
    """Top-1 error of the weights in its repository."""


SYSTEMS = {
    "resnet50": System(4.1, 23.9, 22.14, 21.71),
    "resnext50_32x4d": System(4.1, 22.2),
    "resnet101": System(7.8, 22.0, 21.21, 20.99),
    "resnext101_32x4d": System(7.8, 21.2),
    "resnext101_64x4d": System(15.6, 20.4),
}
"""ImageNet-1k at 224 pixels, by timm's names. Facts, none of them measured here."""
