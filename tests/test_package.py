"""The face of the package: `wsi_espnet.segment` is a function, whoever imported what before."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import wsi_espnet

WAYS = {
    "attribute": "import wsi_espnet; f = wsi_espnet.segment",
    "name": "from wsi_espnet import segment as f",
    "submodule first": "from wsi_espnet.segment import SegmentResult; import wsi_espnet; f = wsi_espnet.segment",
    "submodule by name": "import wsi_espnet.segment as f",
    "pickled": "import pickle, wsi_espnet; f = pickle.loads(pickle.dumps(wsi_espnet.segment))",
}
CALL = """
import inspect
from wsi_espnet.errors import SlideError
assert list(inspect.signature(f).parameters)[:2] == ["slide", "out"]
try:
    f("absent.svs", "out")
except SlideError as exc:
    assert "absent.svs" in str(exc)
else:
    raise AssertionError("segmented a slide that is not there")
"""


@pytest.mark.parametrize("way", WAYS)
def test_segment_can_be_called_in_every_order_of_imports(way: str) -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", f"{WAYS[way]}\n{CALL}"], check=True)


def test_the_module_and_the_function_are_one() -> None:
    from wsi_espnet.segment import SegmentResult, segment

    assert wsi_espnet.segment is sys.modules["wsi_espnet.segment"]
    assert vars(wsi_espnet.segment)["segment"] is segment
    assert vars(wsi_espnet.segment)["SegmentResult"] is SegmentResult


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = (
        "import sys, wsi_espnet; sys.exit(' '.join(sys.modules.keys() & {'torch', 'numpy', 'wsi_espnet.segment'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


def test_what_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = wsi_espnet.nothing


def test_jobs_are_listed_before_they_are_imported() -> None:
    assert {"segment", "__version__"} <= set(dir(wsi_espnet))


def test_the_version_is_that_of_the_installed_package() -> None:
    assert version("wsi-espnet") == wsi_espnet.__version__
