"""How a run finds its instances: the network if there is one, and every default filled in."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from cellseg3d_dist.config import SegmentConfig, make_config
from cellseg3d_dist.engine.earlier import EarlierRun
from cellseg3d_dist.engine.network import Network
from cellseg3d_dist.engine.seed_options import KEYS as SEED_KEYS
from cellseg3d_dist.engine.seed_options import seed_defaults
from cellseg3d_dist.engine.stages.survey import PERCENTILES
from cellseg3d_dist.errors import ConfigError, WeightsError
from cellseg3d_dist.labellers import LabellerSource
from cellseg3d_dist.merging import overlap
from cellseg3d_dist.networks.cards import Card, make_card, resolve
from cellseg3d_dist.representations import Representation, decoding_parameters, representation

#: Foreground of a network's classes where a card says nothing else.
DEFAULT_THRESHOLD = 0.5
#: Channels that hold a foreground, the first that a representation has.
_FOREGROUND = ("foreground", "nucleus", "probability")


@dataclass(frozen=True)
class Method:
    """What a configuration comes to.

    Attributes
    ----------
    config : SegmentConfig
        With every default that depends on the model.
    card : Card or None
        The network's; None for intensity.
    network : Network or None
    representation : Representation or None
    parameters : Any
        Of the representation's decoder.
    earlier_facts : dict or None
        What an earlier run says of the model, where its prediction is used.
    labeller : LabellerSource or None
        What finds the instances, where no method of this package does.
    """

    config: SegmentConfig
    card: Card | None = None
    network: Network | None = None
    representation: Representation | None = None
    parameters: Any = None
    earlier_facts: dict[str, Any] | None = None
    labeller: LabellerSource | None = None

    @property
    def predicts(self) -> bool:
        """Whether instances are found in a prediction, made now or before, not in the image."""
        return self.card is not None

    @property
    def foreground_channel(self) -> int:
        """Stored channel that is thresholded where the representation is not decoded."""
        assert self.representation is not None
        channels = self.stored_channels
        return next((channels.index(name) for name in _FOREGROUND if name in channels), 0)

    @property
    def sparse(self) -> dict[str, Any] | None:
        """How sparse candidates are chosen from a prediction, where it is kept as such."""
        if self.representation is None or self.representation.name != "star":
            return None
        return {"threshold": self.parameters.threshold}

    @property
    def stored_channels(self) -> tuple[str, ...]:
        """Channels that are stored of every voxel; the others are of sparse candidates."""
        assert self.representation is not None
        channels = self.representation.channels
        return channels if self.sparse is None else channels[:1]

    @property
    def decodes(self) -> bool:
        """Whether instances come from the representation, not from a thresholded channel."""
        return self.config.instances == "decode"

    def facts(self) -> dict[str, Any]:
        """For ``run.json``."""
        outside = {} if self.labeller is None else {"labeller": self.labeller.facts()}
        return self._model_facts() | outside

    def _model_facts(self) -> dict[str, Any]:
        if self.earlier_facts is not None:
            return self.earlier_facts | {"decoder": asdict(self.parameters)}
        if self.card is None or self.network is None:
            return {"name": "intensity"}
        return {
            "name": self.card.name,
            "architecture": self.card.architecture,
            "representation": self.card.representation,
            "weights": self.network.weights,
            "sha256": self.network.digest,
            "voxel_size": list(self.card.voxel_size),
            "patch": list(self.card.patch),
            "halo": list(self.card.halo),
            "blending": self.card.blending,
            "decoder": asdict(self.parameters),
            "card": json.loads(self.card.to_json()),
        }


def resolve_method(config: SegmentConfig) -> Method:
    """Read the model's card and fill in what was not given.

    Raises
    ------
    WeightsError
        If the model cannot be found or its card not be used.
    ConfigError
        If an option does not apply to the model.
    EnvironmentFailedError
        If CUDA was asked for and is not there.
    """
    if config.labels_outside:
        return _with_labeller(config)
    if config.model == "intensity":
        return Method(_for_intensity(config))
    if config.earlier_run is not None:
        return _predicted_before(config, EarlierRun.of(config.earlier_run).model)
    from cellseg3d_dist.networks.device import check_device
    from cellseg3d_dist.networks.weights import load_model

    check_device(config.device)
    # everything that can be wrong with weights shows when they are loaded
    located, model = resolve(config.model), load_model(config.model)
    card, represents = model.card, model.representation
    wanted = (card.normalisation.low, card.normalisation.high)
    _check_percentiles(f"model {card.name}", wanted)
    parameters = decoding_parameters(represents, _whole(represents, card.decoder, config.decoder))
    if config.compat is not None and card.representation != "foreground":
        raise ConfigError(
            f"compat {config.compat} gives a foreground; model {card.name} predicts "
            f"{card.representation}. Use a model of a foreground, or leave compat out."
        )
    filled = _for_network(config, card, parameters)
    network = Network(
        weights=str(located.weights),
        digest=model.digest,
        device=filled.device,
        batch=filled.batch or (1 if filled.device == "cpu" else 4),
        threads=filled.threads,
        flips=filled.flips,
        compat=filled.compat,
    )
    return Method(filled, card, network, represents, parameters)


def _predicted_before(config: SegmentConfig, told: dict[str, Any]) -> Method:
    """The method for a prediction that is there: neither network nor torch is loaded."""
    card = make_card(told["card"], "of the earlier run")
    represents = representation(card.representation, **card.representation_options)
    parameters = decoding_parameters(represents, _whole(represents, card.decoder, config.decoder))
    filled = _for_network(config, card, parameters)
    return Method(filled, card, None, represents, parameters, told)


def _check_percentiles(whose: str, wanted: Iterable[float]) -> None:
    for value in wanted:
        if value not in PERCENTILES:
            raise WeightsError(
                f"{whose}: its normalisation uses percentile {value:g}, which the survey does "
                f"not keep. Known are {', '.join(f'{p:g}' for p in PERCENTILES)}."
            )


def _with_labeller(config: SegmentConfig) -> Method:
    """A labeller of the image, or of a network's foreground where a model is given."""
    for key in ("threshold", "decoder", "flood_halo", "compat", *SEED_KEYS):
        if getattr(config, key) is not None:
            raise ConfigError(
                f"{key} does not apply to labeller {config.instances}. Leave it out; what the "
                f"labeller takes goes into labeller_options."
            )
    given = config.plain()
    if "model" not in config.model_fields_set:
        given["model"] = "intensity"
    if config.overlap_threshold is None:
        given["overlap_threshold"] = overlap.THRESHOLD
    filled = make_config(given)
    assert filled.instances is not None
    source = LabellerSource.of(filled.instances, filled.labeller_options, filled.device)
    _check_percentiles(filled.instances, getattr(source.load(), "percentiles", None) or ())
    if filled.model == "intensity":
        if filled.device != "cpu" and not source.takes_device():
            raise ConfigError(
                f"device {filled.device!r}: labeller {source.name} takes no device. Leave it out."
            )
        return Method(filled, labeller=source)
    found = resolve_method(filled.model_copy(update={"instances": None}))
    return replace(found, config=filled, labeller=source)


def _for_intensity(config: SegmentConfig) -> SegmentConfig:
    if config.instances == "decode":
        raise ConfigError(
            "instances 'decode' needs a network: the image itself has no representation. Give "
            "--model, or use voronoi-otsu, watershed or components."
        )
    for key in ("decoder", "compat"):
        if getattr(config, key) is not None:
            raise ConfigError(f"{key} applies to networks only. Give --model, or leave it out.")
    if config.device != "cpu":
        raise ConfigError(
            f"device {config.device!r} is for networks. Give --model, or --backend opencl to label "
            f"on a GPU."
        )
    seeding = seed_defaults(config, predicted=False)
    return _with(config, instances="voronoi-otsu", threshold="otsu", **seeding)


def _for_network(config: SegmentConfig, card: Card, parameters: Any) -> SegmentConfig:
    if isinstance(config.threshold, float) and not 0 <= config.threshold <= 1:
        raise ConfigError(
            f"threshold {config.threshold:g} is outside 0 to 1, the range of the foreground of "
            f"network {card.name}. Give one inside, or --model intensity for image units."
        )
    plain = card.representation == "foreground"
    threshold = DEFAULT_THRESHOLD if card.threshold is None else card.threshold
    filled: dict[str, Any] = {"instances": "voronoi-otsu" if plain else "decode"}
    filled["threshold"] = threshold
    for key in ("spot_sigma", "outline_sigma"):
        if hasattr(parameters, key) and key not in config.model_fields_set:
            filled[key] = f"{getattr(parameters, key):g}um"
    if plain and config.instances == "decode":
        config = config.model_copy(update={"instances": None})
    if plain and isinstance(getattr(parameters, "threshold", None), float):
        filled["threshold"] = card.decoder.get("threshold", threshold)
    return _with(config, **filled | seed_defaults(config, predicted=True))


def _with(config: SegmentConfig, **defaults: Any) -> SegmentConfig:
    """The same with values for keys that have none, or were not given."""
    given = config.plain()
    for key, value in defaults.items():
        if getattr(config, key) is None or key not in config.model_fields_set:
            given[key] = value
    return make_config(given)


def _whole(
    represents: Representation, stored: dict[str, Any], given: dict[str, float] | None
) -> dict[str, Any]:
    """Parameters of the card under those given; whole numbers where the default is one."""
    defaults = asdict(represents.parameters)
    chosen = stored | (given or {})
    return {
        key: int(value)
        if isinstance(defaults.get(key), int) and float(value).is_integer()
        else value
        for key, value in chosen.items()
    }
