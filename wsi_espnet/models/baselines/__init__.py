"""Networks that the ESPNet family is measured against, or learns from."""
