"""Whole-slide segmentation with ESPNet: from a slide to a tissue-class mask."""
