"""Learn on frozen features, in minutes, whether second-order pooling helps on one's own images."""

from typing import TYPE_CHECKING

from gmsop.utils.lazy import lazy_names

if TYPE_CHECKING:
    from gmsop.probe.comparing import compare
    from gmsop.probe.comparison import Comparison, Difference, Row
    from gmsop.probe.extraction import extract
    from gmsop.probe.features import Features
    from gmsop.probe.kept_model import fit_model
    from gmsop.probe.registry import list_probes
    from gmsop.probe.transformer import SecondOrderPooling
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "Comparison": "gmsop.probe.comparison:Comparison",
            "Difference": "gmsop.probe.comparison:Difference",
            "Features": "gmsop.probe.features:Features",
            "Row": "gmsop.probe.comparison:Row",
            "SecondOrderPooling": "gmsop.probe.transformer:SecondOrderPooling",
            "compare": "gmsop.probe.comparing:compare",
            "extract": "gmsop.probe.extraction:extract",
            "fit_model": "gmsop.probe.kept_model:fit_model",
            "list_probes": "gmsop.probe.registry:list_probes",
        },
    )

__all__ = [
    "Comparison",
    "Difference",
    "Features",
    "Row",
    "SecondOrderPooling",
    "compare",
    "extract",
    "fit_model",
    "list_probes",
]
