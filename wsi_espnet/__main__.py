"""`python -m wsi_espnet` is `wsi-espnet`."""

from wsi_espnet.cli.main import run

run()
