"""Backbone, pooling head and linear classifier, with the contract of a timm model."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn

from gmsop.errors import ConfigError
from gmsop.nn import TopKGate
from gmsop.nn.init import he_normal_

if TYPE_CHECKING:
    from gmsop.models.spec import ModelSpec


class PooledClassifier(nn.Module):
    """`model(images)` gives logits, (B, in_chans, H, W) -> (B, num_classes), for any H and W the backbone takes.

    Attributes as in timm: `num_classes`, `num_features` (channels of `forward_features`), `head_hidden_size` (length
    of the representation, what `forward_head(..., pre_logits=True)` gives), `pretrained_cfg` / `default_cfg`. Besides
    `in_chans`, channels of the images, and `spec`, the `ModelSpec` it was built by (None: composed by hand).

    Args:
        backbone: images to a feature map; has `num_features`, and `in_chans` unless that is 3.
        pool: the feature map to a vector of `pool.out_features` numbers.
        num_classes: 0 leaves the classifier out: `model(images)` is then the representation.
        norm: BatchNorm on the representation (parametric and mixture heads have it, plain GAP and SR-SOP have not).
        drop_rate: dropout on the representation.
    """

    def __init__(
        self, backbone: nn.Module, pool: nn.Module, num_classes: int = 1000, norm: bool = False, drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        if not 0 <= drop_rate < 1:
            raise ConfigError(f"drop_rate must be at least 0 and below 1, got {drop_rate}")
        self.backbone = backbone
        self.pool = pool
        self.num_features = int(backbone.num_features)  # type: ignore[arg-type]
        self.head_hidden_size = int(pool.out_features)  # type: ignore[arg-type]
        self.in_chans = int(getattr(backbone, "in_chans", 3))
        self.drop_rate = drop_rate
        self.norm = nn.BatchNorm1d(self.head_hidden_size) if norm else nn.Identity()
        self.drop = nn.Dropout(drop_rate)
        self.pretrained_cfg: dict[str, Any] = {}
        self.default_cfg = self.pretrained_cfg
        self.spec: ModelSpec | None = None
        self.reset_classifier(num_classes)

    @property
    def gate(self) -> TopKGate | None:
        """The gate of a mixture; None of a head that has none."""
        return cast("TopKGate | None", getattr(self.pool, "gate", None))

    def get_classifier(self) -> nn.Module:
        """The linear layer; `nn.Identity` where there are no classes."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh classifier for `num_classes` classes, on the device and in the dtype of the old one."""
        if global_pool is not None:
            raise ConfigError(f"reset_classifier: the pooling head is the model, it cannot become {global_pool!r}")
        if num_classes < 0:
            raise ConfigError(f"num_classes must not be negative, got {num_classes}")
        self.num_classes = num_classes
        if self.spec is not None:
            self.spec = replace(self.spec, num_classes=num_classes)
        self.pretrained_cfg.pop("label_names", None)  # of the classes before
        self.fc: nn.Module = nn.Identity()
        if num_classes:
            like = next(self.backbone.parameters())
            fc = nn.Linear(self.head_hidden_size, num_classes, device=like.device, dtype=like.dtype)
            he_normal_(fc.weight)
            nn.init.zeros_(fc.bias)
            self.fc = fc

    def forward_features(self, x: Tensor) -> Tensor:
        """Images to the feature map, (B, num_features, h, w)."""
        return self.backbone(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False, return_routing: bool = False) -> Any:
        """Feature map to logits, or to the representation (B, head_hidden_size) with `pre_logits`."""
        routing = None
        if self.gate is not None:
            x, routing = self.pool(x, return_routing=True)
        else:
            x = self.pool(x)
        x = self.drop(self.norm(x))
        x = x if pre_logits else self.fc(x)
        return (x, routing) if return_routing is True else x  # a feature extractor passes a placeholder

    def forward(self, x: Tensor, return_routing: bool = False) -> Any:
        """Logits; with `return_routing` the pair of logits and the gate's `Routing` (None for a head without gate)."""
        return self.forward_head(self.forward_features(x), return_routing=return_routing)
