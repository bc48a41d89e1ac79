"""From windows of a slide to probabilities and labels."""
