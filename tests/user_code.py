"""What a user of gmsop writes, for mypy: `make lint` fails where an error that is expected here is none any more."""

import gmsop

model = gmsop.create_model("gm_sop_4_2_tiny", num_classes=5)
dataset = gmsop.data.PackedDataset("photos64", "val")
error: float = gmsop.evaluate(model, dataset).top1_error

gmsop.creat_model("gap_tiny")  # type: ignore[attr-defined]
gmsop.data.PackedDatsaet("photos64", "val")  # type: ignore[attr-defined]
gmsop.create_model(1)  # type: ignore[arg-type]
gmsop.nn.ISqrtCovPool(reduced_dim="64")  # type: ignore[arg-type]
