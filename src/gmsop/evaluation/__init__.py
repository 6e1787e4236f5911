"""Measure what a trained model does: error rates, predictions, the use of its gate."""
