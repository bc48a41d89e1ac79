"""The napari plugin of wsi_espnet: opens slides and masks, segments, measures, and keeps what people correct."""
