"""Where the weights of a run start: at random, or from a file, with what a change of classes leaves of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from wsi_espnet.classes import ClassTable
from wsi_espnet.errors import UsageError
from wsi_espnet.models.baselines.efficientnet import EfficientNet
from wsi_espnet.models.card import ModelCard, Normalisation
from wsi_espnet.models.espnet import CoarseNet, Encoder, EspNet
from wsi_espnet.models.importer import import_pth
from wsi_espnet.models.network_config import EFFICIENTNET, ENCODER, NetworkConfig
from wsi_espnet.models.networks import Network, build
from wsi_espnet.models.weights import load_model
from wsi_espnet.training.config import ModelConfig
from wsi_espnet.training.imagenet import IMAGENET, INPUT, copy_imagenet
from wsi_espnet.training.revive import decoder_to_plain_rgb, to_plain_rgb, wake_dead_channels

ESPNETS = (CoarseNet, EspNet)


@dataclass(frozen=True, slots=True)
class Start:
    """A network to train.

    Parameters
    ----------
    network
        On the CPU, in training mode.
    normalisation
        What its weights expect; None for random ones, which expect nothing.
    note
        Where the weights come from, for the card.
    """

    network: Network
    normalisation: Normalisation | None
    note: str


def start(config: ModelConfig, classes: ClassTable) -> Start:
    """The network of `config` for these classes, with its first weights; random ones come from torch's generator.

    From a file, the pyramids are always taken. The encoder's classifier is taken class by class, by name. The decoder
    works in as many channels as there are classes, so it is taken whole where the classes are the same, in the same
    order, and starts anew otherwise.

    Raises
    ------
    ModelError
        The file is missing, damaged or of another kind.
    UsageError
        It is of another architecture, p or q, or `init_classes` names a class that is not there.
    """
    wanted = config.network(len(classes))
    network = build(wanted)
    if config.init is None:
        return Start(network, None, "random weights")
    if config.init == IMAGENET:
        return _imagenet(network, config)
    module, card, origin = _read(config.init)
    if not isinstance(network, ESPNETS) or not isinstance(module, ESPNETS):
        return _whole(network, wanted, module, card, origin)
    _ensure_fits(config, module)
    theirs = _theirs(classes, card.classes, config.init_classes)
    whole = config.init_part == "all" and theirs == list(range(len(card.classes)))
    with torch.no_grad():
        if whole and isinstance(network, EspNet) and isinstance(module, EspNet):
            _ensure_same_skip(config, module)
            network.load_state_dict(module.state_dict())
        else:
            _copy_encoder(encoder_of(module), encoder_of(network), theirs)
        normalisation = card.normalisation
        if config.revive:
            normalisation = _revive(network, normalisation, whole=whole)
    return Start(network, normalisation, f"{'all' if whole else 'the encoder'} of {origin}")


def _imagenet(network: Network, config: ModelConfig) -> Start:
    if not isinstance(network, EfficientNet):
        raise UsageError(
            f"model.init = {IMAGENET!r} is a start for model.architecture = {EFFICIENTNET!r}, and this is "
            f"{config.architecture!r}; name a file or a bundled model"
        )
    return Start(network, INPUT, copy_imagenet(network, config.size))


def _whole(network: Network, wanted: NetworkConfig, module: Network, card: ModelCard, origin: str) -> Start:
    """All of a network that has no encoder which another one could go on from."""
    if card.network != wanted:
        raise UsageError(
            f"{origin} is {card.network}, and this run asks for {wanted}; where one of the two is no ESPNet, both must "
            "be the same, classes included"
        )
    network.load_state_dict(module.state_dict())
    return Start(network, card.normalisation, f"all of {origin}")


def encoder_of(network: nn.Module) -> Encoder:
    """The encoder of an ESPNet, or an ESPNet-C itself."""
    found = network.encoder if isinstance(network, EspNet) else network
    assert isinstance(found, Encoder)
    return found


def _revive(network: CoarseNet | EspNet, normalisation: Normalisation, *, whole: bool) -> Normalisation:
    """Wake the encoder's dead channels, and turn the authors' input into plain RGB; what the input is then."""
    encoder = encoder_of(network)
    if (normalisation.order, normalisation.divide) == ("bgr", 255.0):
        to_plain_rgb(encoder)
        if whole and isinstance(network, EspNet):
            decoder_to_plain_rgb(network)
        normalisation = Normalisation(order="rgb", mean=normalisation.mean[::-1], std=normalisation.std[::-1])
    wake_dead_channels(encoder)
    return normalisation


def _read(init: str) -> tuple[Network, ModelCard, str]:
    if Path(init).suffix in {".pth", ".pt"}:
        module, card = import_pth(init)
        return module, card, f"{Path(init).parent.name}/{Path(init).name} ({card.source})"
    loaded = load_model(init)
    return loaded.module, loaded.card, f"{loaded.card.name} (sha256 {loaded.sha256[:12]})"


def _ensure_fits(config: ModelConfig, module: Network) -> None:
    encoder = encoder_of(module)
    got = (len(encoder.level2), len(encoder.level3))
    if got != (config.p, config.q):
        raise UsageError(
            f"{config.init} has p, q = {got}, model.p and model.q are {(config.p, config.q)}; make them equal"
        )
    if encoder.reinforced != (config.architecture != ENCODER):
        raise UsageError(
            f"{config.init} is {'an ESPNet-C' if encoder.reinforced else 'a plain encoder'} at its core, which "
            f"model.architecture = {config.architecture!r} is not"
        )


def _ensure_same_skip(config: ModelConfig, network: EspNet) -> None:
    if network.encoder.skip != config.skip:
        raise UsageError(
            f"{config.init} has the detail skip {network.encoder.skip}, model.skip is {config.skip}; make them equal"
        )


def _theirs(ours: ClassTable, theirs: ClassTable, renamed: Mapping[str, str]) -> list[int | None]:
    """For each of our classes the id of theirs that it goes on from; None where there is none."""
    for known, names in ((ours.names, renamed.keys()), (theirs.names, renamed.values())):
        unknown = sorted(set(names) - set(known))
        if unknown:
            raise UsageError(f"model.init_classes names {', '.join(unknown)}; there are {', '.join(known)}")
    ids = {name: id_ for id_, name in enumerate(theirs.names)}
    return [ids.get(renamed.get(name, name)) for name in ours.names]


def _copy_encoder(source: Encoder, target: Encoder, theirs: list[int | None]) -> None:
    head = "classifier.conv.weight"
    body = {key: tensor for key, tensor in source.state_dict().items() if key != head}
    target.load_state_dict(body, strict=False)
    for ours, other in enumerate(theirs):
        if other is not None:
            target.classifier.conv.weight[ours] = source.classifier.conv.weight[other]
