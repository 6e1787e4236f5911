"""The authors' MatConvNet checkpoints."""
