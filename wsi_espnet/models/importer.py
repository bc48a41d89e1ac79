"""The original authors' `.pth` files (github.com/sacmehta/ESPNet) as modules with cards."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import torch
from torch import Tensor

from wsi_espnet.errors import ModelError
from wsi_espnet.models.card import ModelCard, Normalisation
from wsi_espnet.models.catalog import class_table
from wsi_espnet.models.espnet import CoarseNet, EspNet, build
from wsi_espnet.models.network_config import EspNetConfig
from wsi_espnet.models.weights import ensure_same_tensors

REPOSITORY = "github.com/sacmehta/ESPNet@afe71c38edaee3514ca44e0adcafdf36109bf437"

PUBLISHED = {
    "5101e9bc90dd2a57d8460e70cdfaa743f76317bf806d2d1c4adb635c8d392e77": "encoder/espnet_p_2_q_3.pth",
    "ec028eb60b08a56583eb9d310f5f4f7c4bc70972009030c25f1414dc48c916d6": "encoder/espnet_p_2_q_5.pth",
    "836f28a2a31bd4fc8997001ab6b620d1f9b7b274a03b32d9f3a95c17a011b438": "encoder/espnet_p_2_q_8.pth",
    "8f3eb198fb15e5da7fa8d258d5f0fc4a4213e1124f415f6fc54d2772d585a7fc": "decoder/espnet_p_2_q_3.pth",
    "0378be45080ca5edfc416e9ba06b04e74ec5e2ec4baf56597f25a894a8593942": "decoder/espnet_p_2_q_5.pth",
    "343b0e77e8545d36113c4f3efbf1ee349256f25c97c9f9d5ddefe45f2f49763e": "decoder/espnet_p_2_q_8.pth",
    "7d354a257170322086dcd4c1e89a482454cf2c9d30b085e70883878dd59301af": "decoder/espnet_p_2_q_8_camvid.pth",
}
"""sha256 -> path under `pretrained/` of `REPOSITORY` of the seven published files (MIT)."""

NORMALISATIONS = {
    # The authors' test/VisualizeResults.py: cv2 reads BGR, and the result is divided by 255 again.
    "cityscapes20": Normalisation(
        order="bgr",
        mean=(72.3923111, 82.90893555, 73.15840149),
        std=(45.3192215, 46.15289307, 44.91483307),
        divide=255.0,
    ),
    # Not published; what the authors' train/loadData.py computes on SegNet's CamVid training split: means
    # over the images of each image's mean and of each image's std.
    "camvid12": Normalisation(
        order="bgr",
        mean=(110.33102643, 108.40886315, 105.03319369),
        std=(72.12571015, 72.69074534, 69.90434816),
        divide=255.0,
    ),
}
"""Input conventions of the published weights by class table."""

_TABLE_BY_CLASSES = {20: "cityscapes20", 12: "camvid12"}

_TERMS = {
    "cityscapes20": "weights MIT; trained on Cityscapes, whose licence allows non-commercial use only",
    "camvid12": "weights MIT; trained on CamVid, for research, cite Brostow et al. 2008",
}


def import_pth(
    path: str | Path,
    *,
    classes: str | None = None,
    name: str | None = None,
    normalisation: Normalisation | None = None,
) -> tuple[CoarseNet | EspNet, ModelCard]:
    """A network in evaluation mode and its card from a `.pth` that the authors' code has written.

    Architecture, p, q, number of classes and skip are found from the tensors. The file is read with
    ``weights_only=True``, so no code in it is run.

    Parameters
    ----------
    path
        A plain state dict: an ESPNet-C, with or without the ``encoder.`` prefix, or an ESPNet.
    classes
        Name of a class table. None is allowed for 20 outputs (``cityscapes20``) and 12 (``camvid12``), the
        two tables that the authors have published weights for; any other number must be named.
    name
        Name for the card; None takes the stem of the file.
    normalisation
        Input convention; None takes the authors' for ``cityscapes20`` and ``camvid12``. Weights trained on
        other data have means of their own, which the file does not hold, so these must be given.

    Raises
    ------
    ModelError
        The file is missing, damaged, not an ESPNet, or class table or normalisation are unknown.
    """
    path = Path(path)
    tensors = read_state_dict(path)
    config = config_of(tensors, path)
    table = class_table(classes if classes is not None else _guess_table(config.classes, path))
    if len(table) != config.classes:
        raise ModelError(f"{path} has {config.classes} outputs, the class table {table.name!r} {len(table)} classes")
    if normalisation is None and table.name not in NORMALISATIONS:
        raise ModelError(
            f"the mean and std that {path} was trained with are not in the file and not known for "
            f"{table.name!r}; give them as --mean and --std (from Python, as normalisation)"
        )
    card = _card(path, name or path.stem, config, table.name, normalisation or NORMALISATIONS[table.name])
    return to_module(tensors, config, path), card


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The float32 tensors of a `.pth`, named without the counters and prefixes that versions differ in."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as exc:
        raise ModelError(f"cannot read {path}: {exc.strerror}") from exc
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as exc:
        raise ModelError(f"{path} is not a PyTorch file of plain tensors, or is damaged") from exc
    if not isinstance(content, dict) or not all(isinstance(t, Tensor) for t in content.values()) or not content:
        raise ModelError(f"{path} does not hold a state dict, that is names with tensors")
    tensors = {k: t for k, t in content.items() if not k.endswith("num_batches_tracked")}
    if "classifier.weight" not in tensors and all(k.startswith("encoder.") for k in tensors):
        tensors = {k.removeprefix("encoder."): t for k, t in tensors.items()}
    return tensors


def config_of(tensors: dict[str, Tensor], path: Path) -> EspNetConfig:
    """The configuration that a state dict belongs to, found from its names and shapes."""
    full = "classifier.weight" in tensors
    prefix = "encoder." if full else ""
    head = tensors.get("classifier.weight" if full else "classifier.conv.weight")
    if head is None or f"{prefix}level1.conv.weight" not in tensors or head.ndim != 4:
        raise ModelError(f"{path} is not an ESPNet or ESPNet-C: its classifier or first convolution is missing")
    classes = head.shape[0]
    skip = 19
    if full and "conv.conv.weight" in tensors:
        skip = tensors["conv.conv.weight"].shape[1] - classes
    if skip not in (16, 19):
        raise ModelError(f"{path} is not an ESPNet: its detail skip has {skip} channels instead of 16 or 19")
    plain = f"{prefix}b1.bn.weight" not in tensors
    return EspNetConfig(
        architecture="espnet" if full else "encoder" if plain else "espnet-c",
        p=_count(tensors, f"{prefix}level2."),
        q=_count(tensors, f"{prefix}level3."),
        classes=classes,
        skip=skip,  # type: ignore[arg-type]
    )


def to_module(tensors: dict[str, Tensor], config: EspNetConfig, path: Path) -> CoarseNet | EspNet:
    """The module with these tensors, in evaluation mode; none may be missing or left over."""
    module = build(config)
    counters = {k: t for k, t in module.state_dict().items() if k.endswith("num_batches_tracked")}
    tensors = {**counters, **tensors}
    network = f"{config.architecture} p={config.p} q={config.q} with {config.classes} classes"
    ensure_same_tensors(tensors, module.state_dict(), f"{path} is not an {network}")
    module.load_state_dict(tensors, strict=True)
    return module.eval()


def _count(tensors: dict[str, Tensor], prefix: str) -> int:
    return len({k.removeprefix(prefix).split(".")[0] for k in tensors if k.startswith(prefix)})


def _guess_table(classes: int, path: Path) -> str:
    if classes not in _TABLE_BY_CLASSES:
        raise ModelError(f"{path} has {classes} outputs, and what they mean is not in the file; name a class table")
    return _TABLE_BY_CLASSES[classes]


def _card(path: Path, name: str, config: EspNetConfig, table: str, normalisation: Normalisation) -> ModelCard:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    published = PUBLISHED.get(digest)
    origin = f"{REPOSITORY} pretrained/{published}" if published else f"imported from {path.name}"
    return ModelCard(
        name=name,
        summary=f"{config.architecture} p={config.p} q={config.q}, {table}, the authors' weights"
        if published
        else f"{config.architecture} p={config.p} q={config.q}, {table}, imported",
        network=config,
        classes=class_table(table),
        mpp=None,
        normalisation=normalisation,
        data=("CamVid" if table == "camvid12" else "Cityscapes") if published else "not stated in the file",
        terms=_TERMS[table] if published else "not stated in the file",
        split="the authors' training split" if published else "not stated in the file",
        scores={},
        limits="street scenes seen from a car" if published else "not stated in the file",
        source=f"{origin}, sha256 {digest}",
    )
