"""A `PooledClassifier` is backbone, pooling head and linear classifier, with the contract of a timm model."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from gmsop.backbones.protocol import BackboneModule
from gmsop.errors import ConfigError
from gmsop.nn import TopKGate
from gmsop.nn.init import he_normal_

if TYPE_CHECKING:
    from gmsop.models.spec import ModelSpec


class PooledClassifier(nn.Module, PyTorchModelHubMixin):
    """`model(images)` gives logits, (B, in_chans, H, W) -> (B, num_classes), for any H and W the backbone takes.

    Attributes as in timm: `num_classes`, `num_features` (channels of `forward_features`), `head_hidden_size` (length
    of the representation, what `forward_head(..., pre_logits=True)` gives), `feature_info`, `output_fmt`,
    `pretrained_cfg` / `default_cfg`. Besides `in_chans`, channels of the images, and `spec`, the `ModelSpec` it was
    built by (None: composed by hand).

    Args:
        backbone: images to features. A module that is no `BackboneModule` gives a map (B, C, H, W) and has
            `num_features`, C.
        pool: a map (B, C, H, W) to a vector of `pool.out_features` numbers.
        num_classes: 0 leaves the classifier out: `model(images)` is then the representation.
        norm: BatchNorm on the pooled vector (parametric and mixture heads have it, plain GAP and SR-SOP have not).
        drop_rate: dropout on the representation.

    Raises:
        ConfigError: a drop_rate or number of classes that cannot be.
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
        pooled = int(pool.out_features)  # type: ignore[arg-type]
        self.head_hidden_size = pooled + int(getattr(backbone, "token_features", 0))
        self.in_chans = int(getattr(backbone, "in_chans", 3))
        self.output_fmt = str(getattr(backbone, "output_fmt", "NCHW"))
        self.feature_info: list[dict[str, Any]] = [
            {**info, "module": f"backbone.{info['module']}"} if "module" in info else info
            for info in getattr(backbone, "feature_info", [])
        ]
        self.drop_rate = drop_rate
        self.norm = nn.BatchNorm1d(pooled) if norm else nn.Identity()
        self.drop = nn.Dropout(drop_rate)
        self.is_pooled = True
        self.pretrained_cfg: dict[str, Any] = {}
        self.default_cfg = self.pretrained_cfg
        self.spec: ModelSpec | None = None
        self.reset_classifier(num_classes)

    @property
    def gate(self) -> TopKGate | None:
        """The gate of a mixture; None of a head that has none."""
        return cast("TopKGate | None", getattr(self.pool, "gate", None))

    def get_classifier(self) -> nn.Module:
        """Return the linear layer, or `nn.Identity` where there are no classes."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Make a fresh classifier for `num_classes` classes, on the device and in the dtype of the backbone.

        Args:
            num_classes: 0 leaves the classifier out.
            global_pool: "" switches the pooling head off as well: `model(images)` is then what the backbone gives.
                None leaves the head as it is.

        Raises:
            ConfigError: a negative number; classes without pooling; another kind of pooling.
        """
        if global_pool:
            raise ConfigError(f"reset_classifier: the pooling head is the model, it cannot become {global_pool!r}")
        if num_classes < 0 or (num_classes and global_pool == ""):
            what = "a classifier needs the pooling head" if num_classes > 0 else "num_classes must not be negative"
            raise ConfigError(f"reset_classifier: {what}, got num_classes {num_classes}")
        if global_pool is not None:
            self.is_pooled = False
        elif num_classes:
            self.is_pooled = True
        self.num_classes = num_classes
        if self.spec is not None:
            self.spec = replace(self.spec, num_classes=num_classes)
        self.pretrained_cfg.pop("label_names", None)  # they were of the classes before
        self.pretrained_cfg["num_classes"] = num_classes
        self.fc: nn.Module = nn.Identity()
        if num_classes:
            like = next(self.backbone.parameters())
            fc = nn.Linear(self.head_hidden_size, num_classes, device=like.device, dtype=like.dtype)
            he_normal_(fc.weight)
            nn.init.zeros_(fc.bias)
            self.fc = fc

    def forward_features(self, x: Tensor) -> Tensor:
        """Turn images into features, (B, num_features, h, w), or as `output_fmt` says."""
        return self.backbone(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False, return_routing: bool = False) -> Any:
        """Turn features into logits, or into the representation (B, head_hidden_size) with `pre_logits`."""
        routing, token = None, None
        if not self.is_pooled:
            return (x, routing) if return_routing is True else x
        if isinstance(self.backbone, BackboneModule):
            x, token = self.backbone.positions(x)
        if self.gate is not None:
            x, routing = self.pool(x, return_routing=True)
        else:
            x = self.pool(x)
        x = self.norm(x)
        if token is not None:
            x = torch.cat([x, token], 1)
        x = self.drop(x)
        x = x if pre_logits else self.fc(x)
        return (x, routing) if return_routing is True else x  # a feature extractor passes a placeholder

    def forward(self, x: Tensor, return_routing: bool = False) -> Any:
        """Logits; with `return_routing` the pair of logits and the gate's `Routing` (None for a head without gate)."""
        return self.forward_head(self.forward_features(x), return_routing=return_routing)

    # --- timm's contract beyond the call -----------------------------------------------------------------------------

    def _trunk(self) -> BackboneModule:
        if not isinstance(self.backbone, BackboneModule):
            name = type(self.backbone).__name__
            raise ConfigError(f"the backbone is a {name}, of which no more is known than that it gives a map")
        return self.backbone

    def forward_intermediates(self, x: Tensor, *args: Any, **options: Any) -> Any:
        """Give the features of several levels: see `BackboneModule.forward_intermediates`.

        Raises:
            ConfigError: the backbone has no levels that can be asked for.
        """
        return self._trunk().forward_intermediates(x, *args, **options)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what follows the last level that is asked for; with `prune_head` head and classifier, too."""
        taken = self._trunk().prune_intermediate_layers(indices, prune_norm, prune_head)
        if prune_head:
            self.reset_classifier(0, "")
            self.pool, self.norm = nn.Identity(), nn.Identity()
        return taken

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the backbone's activations again in the backward pass instead of keeping them.

        Raises:
            ConfigError: the backbone cannot.
        """
        self._trunk().set_grad_checkpointing(enable)

    def group_matcher(self, coarse: bool = False) -> Callable[[str], tuple[float, ...]]:
        """Group parameters by layer for `timm.optim`: those of the backbone first to last, then the whole head as one.

        Raises:
            ConfigError: the backbone does not say what its layers are.
        """
        from timm.models import group_parameters

        trunk = self._trunk()
        layers = group_parameters(trunk, trunk.group_matcher(coarse), reverse=True)
        return lambda name: (float(layers.get(name.removeprefix("backbone."), math.inf)),)

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters that no weight decay should shrink."""
        trunk = self.backbone
        return {f"backbone.{name}" for name in trunk.no_weight_decay()} if isinstance(trunk, BackboneModule) else set()

    # --- folders and hub: `save_pretrained`, `from_pretrained`, `push_to_hub` ----------------------------------------

    def _save_pretrained(self, save_directory: Any) -> None:
        from gmsop.models.hub import save_folder

        save_folder(self, save_directory)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: Any,
        force_download: bool,
        local_files_only: bool,
        token: Any,
        **arguments: Any,
    ) -> "PooledClassifier":
        from gmsop.models.hub import from_folder_or_hub

        if force_download or local_files_only or token is not None:
            raise ConfigError(
                "timm downloads, and takes neither force_download nor local_files_only nor token: set HF_HUB_OFFLINE, "
                "or HF_TOKEN, or log in with `hf auth login`"
            )
        return from_folder_or_hub(model_id, revision, cache_dir=cache_dir, **arguments)


def without_parallel(module: Any) -> Any:
    """Return the module within DataParallel or DistributedDataParallel; any other as it is."""
    while isinstance(module, nn.parallel.DataParallel | nn.parallel.DistributedDataParallel):
        module = module.module
    return module


def plain_model(model: Any, keep_compiled: bool = False) -> PooledClassifier:
    """Return a model of gmsop's, without what `torch.compile`, DataParallel or its like put around it.

    Args:
        keep_compiled: return what `torch.compile` made; it has the attributes of the model within.

    Raises:
        ConfigError: it is no model of gmsop's.
    """
    model = without_parallel(model)
    inner = getattr(model, "_orig_mod", model)
    if not isinstance(inner, PooledClassifier):
        found = type(inner).__name__
        raise ConfigError(f"a model of gmsop's is needed, got a {found}: gmsop.attach makes one of a timm model")
    compiled: PooledClassifier = model
    return compiled if keep_compiled else inner
