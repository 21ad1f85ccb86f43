"""Whether an adapter was made for a model like the one it is added to."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from sdlite.errors import RequestError
from sdlite.manifest import Manifest
from sdlite_export.configs import IPAdapterConfig, T2IAdapterConfig
from sdlite_export.emit.extend import UnetPlaces
from sdlite_export.source.adapter import AdapterSource
from sdlite_export.source.layout import skip_widths


def check_fits(adapter: AdapterSource, places: UnetPlaces, manifest: Manifest) -> None:
    """Compare an adapter's numbers with a model's; raises ``RequestError`` where they differ."""
    if manifest.task == "upscale":
        raise RequestError(
            f"{manifest.name} is an upscaler: it follows the picture it enlarges, and takes no "
            "ControlNet, T2I-Adapter or IP-Adapter"
        )
    facts: tuple[tuple[str, object, object], ...]
    if isinstance(adapter.config, IPAdapterConfig):
        crosses = [places.crosses[places.file_order().index(n)] for n in range(len(places.crosses))]
        ours = [channels for _, channels in crosses]
        facts = (
            ("text features {} wide", adapter.config.cross_dim, places.cross_dim),
            ("cross-attentions of {} channels", _runs(adapter.config.crosses), _runs(ours)),
        )
    elif isinstance(adapter.config, T2IAdapterConfig):
        made = tuple(zip(adapter.config.channels, adapter.config.levels, strict=True))
        *levels, middle = (*(places.skips[end] for end in places.ends), places.skips[-1])
        # Those for SDXL give one for the middle too.
        whole = (*levels, middle) if len(made) > len(levels) else tuple(levels)
        facts = (("features of {} channels (and halvings)", _pairs(made), _pairs(whole)),)
    else:
        config = adapter.config.unet
        ours = [channels for channels, _ in places.skips]
        facts = (
            ("text features {} wide", config.cross_dim, places.cross_dim),
            ("skips of {} channels", _brief(skip_widths(config)), _brief(ours)),
            ("pooled text and sizes {} wide", config.label_dim or 0, places.label_dim or 0),
            ("latents of {} channels", config.in_channels, manifest.latent.channels),
        )
    for words, theirs_, ours_ in facts:
        if theirs_ != ours_:
            raise RequestError(
                f"{adapter.name} was made for {words.format(theirs_)}, {manifest.name} "
                f"({manifest.family}) has {ours_}: it is for another model family; "
                "give one made for this family"
            )


def _pairs(places: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{channels} ({level})" for channels, level in places)


def _brief(widths: Sequence[int]) -> str:
    return ", ".join(map(str, widths))


def _runs(widths: Sequence[int]) -> str:
    """Many widths, equal neighbours counted."""
    return ", ".join(f"{len(list(same))} x {width}" for width, same in groupby(widths))
