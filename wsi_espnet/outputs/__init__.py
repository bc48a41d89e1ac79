"""What a result is made of on disk: OME-Zarr, areas, overview."""
