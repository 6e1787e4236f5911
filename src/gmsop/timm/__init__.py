"""timm's own training script with the balance loss: `python -m gmsop.timm train.py ...`."""
