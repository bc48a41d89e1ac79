"""The napari plugin of wsi_espnet; reader and widget are still to come."""
