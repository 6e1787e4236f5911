import pytest
import torch

import gmsop
from gmsop.data import PackedDataset
from gmsop.errors import ConfigError, DataError
from gmsop.evaluation import evaluate


def test_evaluation_counts(small_set):
    """A model that always answers class 3 errs on all others."""
    model = gmsop.create_model("gap_tiny", 10)
    with torch.no_grad():
        model.fc.weight.zero_()
        model.fc.bias.copy_(torch.tensor([0.0, 0, 0, 5, 4, 3, 2, 1, 0, 0]))
    val = PackedDataset(small_set, "val")
    result = evaluate(model, val, batch_size=7)
    share = (val.labels == 3).mean()
    top5 = ((val.labels >= 3) & (val.labels <= 7)).mean()
    assert result.images == 40
    assert result.top1_error == pytest.approx(100 * (1 - share), abs=1e-4)
    assert result.top5_error == pytest.approx(100 * (1 - top5), abs=1e-4)
    assert result.class_errors == [0.0 if c == 3 else 100.0 for c in range(10)]
    assert result.component_load is None


def test_evaluation_refuses_what_does_not_fit(small_set):
    val = PackedDataset(small_set, "val")
    with pytest.raises(DataError, match="has 10 classes, the model tells 3 apart"):
        evaluate(gmsop.create_model("gap_tiny", 3), val)
    with pytest.raises(DataError, match="takes 1 channels"):
        evaluate(gmsop.create_model("gap_tiny", 10, in_chans=1), val)
    with pytest.raises(ConfigError, match="batch_size"):
        evaluate(gmsop.create_model("gap_tiny", 10), val, batch_size=0)
