"""Images with ground truth, ready for training."""
