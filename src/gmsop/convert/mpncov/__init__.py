"""This package reads the checkpoints of fast MPN-COV (iSQRT-COV), which PyTorch saved."""
