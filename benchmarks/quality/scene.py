"""Reads a 128x128 picture of one or two plain shapes: colours, shapes, sizes, places, styles.

Without neural networks, in four steps:

1. The background's colour is the commonest palette colour along the border.
2. Every other pixel is explained as a mixture of the background and one palette colour. A mixture
   counts only near pixels where that colour is (almost) pure, so an orange shape on red is not
   taken for a half-transparent yellow one. Colours are added greedily while they explain more.
3. Connected regions of one colour are objects when large enough, else fragments, which count as
   stains on the object they touch or as clutter on the background.
4. Each object's coverage gives its edge width and stroke width (so its style), and its filled
   silhouette is compared with analytic ones of every shape, which gives shape, centre and radius.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.quality.outlines import RING_HOLE, Fit, fit_filled, fit_stroke
from benchmarks.quality.palette import NAMES, PALETTE, PALETTE_LAB, distance, nearest_name, to_lab
from benchmarks.quality.regions import (
    components,
    dilate,
    erode,
    holes,
    local_maximum,
    perimeter,
    territories,
)

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

SIDE = 128
COLOUR_LIMIT = 7.0
"""Farthest a colour may lie from its name (the two nearest names lie 15 apart)."""
UNLIKE = 8.0
"""A pixel farther than this from every explanation is of a foreign colour."""
_CAP = 20.0
_PURE_NEAR = 0.75
_PURE_REACH = 6
_MIN_OBJECT = 150
_MIN_FRAGMENT = 8
_REACH = 9
_CUT = 8
_STROKE_HALF = 1.8
_STROKE_LIMIT = 5.4
_SIZE_EDGES = (0.095, 0.161, 0.245, 0.36)
FIT_LIMIT = 0.80
FIT_MARGIN = 0.015
FLAT_EDGE = 2.0
SOFT_EDGES = (3.3, 8.0)


@dataclass(frozen=True)
class SceneObject:
    """One object read off a picture; places and radius are fractions of the picture."""

    colour: str | None
    """Palette name, None when the colour is too far from every name."""
    shape: str | None
    """Shape name, None when no shape fits well enough or two fit alike."""
    size: str | None
    """small, plain or large; None when far outside all of them."""
    style: str | None
    """flat, outline or soft; None when the edges are too blurred to be flat or outlined."""
    x: float
    """Centre of the fitted shape, to the right."""
    y: float
    """Centre of the fitted shape, down."""
    radius: float
    """The fitted shape's r."""
    edge: float
    """Width of the edges in pixels of a 128-pixel picture: about 0.6 sharp, 4.5 soft style."""
    score: float
    """How well the fitted shape lies on the object, 0..1."""
    stain: float
    """Area of foreign colours on the object over its own area."""


@dataclass(frozen=True)
class Reading:
    """What a picture shows."""

    background: str | None
    """Palette name of the background, None when no name is near enough."""
    objects: tuple[SceneObject, ...]
    """Objects, the largest area first."""
    clutter: float
    """Share of the picture that is neither background nor part of an object."""


@dataclass(frozen=True)
class _Layer:
    """One colour of the scene: which pixels it explains, and how much of it they hold."""

    rgb: Floats
    coverage: Floats
    residual: Floats


def read_scene(image: Image.Image) -> Reading:
    """Read a picture of 128x128 pixels; raises ValueError for any other size."""
    if image.size != (SIDE, SIDE):
        width, height = image.size
        raise ValueError(f"picture of {width}x{height}: the checker reads {SIDE}x{SIDE} only")
    rgb = np.asarray(image.convert("RGB"), dtype=np.float32)
    lab = to_lab(rgb)
    ground = _background(rgb, lab)
    layers, unlike = _layers(rgb, lab, ground)
    masks, owners, fragments = _split(layers, unlike)

    numbered = np.zeros(unlike.shape, dtype=np.int32)
    for index, mask in enumerate(masks):
        numbered[mask] = index + 1
    stains, clutter = _blame(masks, fragments)
    land = territories(numbered, _REACH)
    objects = []
    for index, mask in enumerate(masks):
        layer = layers[owners[index]] if owners[index] < len(layers) else None
        if layer is None:
            layer = _layer(rgb, lab, ground, np.median(rgb[mask], axis=0))
        others = (numbered != index + 1) & (numbered != 0)
        objects.append(_read_object(layer, mask, land == index + 1, others, stains[index]))
    return Reading(
        background=nearest_name(ground, COLOUR_LIMIT),
        objects=tuple(objects),
        clutter=float(clutter.sum()) / clutter.size,
    )


def _background(rgb: Floats, lab: Floats) -> Floats:
    """Median RGB of the border pixels that have the commonest name there."""
    border = np.ones(lab.shape[:2], dtype=bool)
    border[3:-3, 3:-3] = False
    names = distance(lab[border][:, None], PALETTE_LAB).argmin(axis=1)
    common = int(np.bincount(names).argmax())
    return np.asarray(np.median(rgb[border][names == common], axis=0), dtype=np.float32)


def _layer(rgb: Floats, lab: Floats, ground: Floats, colour: npt.ArrayLike) -> _Layer:
    """Explain every pixel as a mixture of the background and one colour."""
    full = np.asarray(colour, dtype=np.float32)
    step = full - ground
    coverage = np.clip((rgb - ground) @ step / max(float(step @ step), 1.0), 0.0, 1.0)
    mixed = ground + coverage[..., None] * step
    residual = distance(lab, to_lab(mixed))
    pure = local_maximum(np.where(residual < UNLIKE, coverage, 0.0), _PURE_REACH)
    residual = np.where((coverage > 0.15) & (pure < _PURE_NEAR), 2 * _CAP, residual)
    return _Layer(full, coverage.astype(np.float32), residual.astype(np.float32))


def _layers(rgb: Floats, lab: Floats, ground: Floats) -> tuple[list[_Layer], Mask]:
    """Find the scene's colours; returns them and the mask of pixels none of them explains."""
    ground_name = nearest_name(ground, COLOUR_LIMIT)
    left = np.minimum(distance(lab, to_lab(ground)), _CAP)
    options = {
        name: _layer(rgb, lab, ground, PALETTE[name]) for name in NAMES if name != ground_name
    }
    layers: list[_Layer] = []
    while len(layers) < 4:
        best: tuple[float, str] | None = None
        for name, option in options.items():
            new = (left > UNLIKE) & (option.residual < UNLIKE) & (option.coverage >= 0.6)
            if int(new.sum()) < _MIN_OBJECT // 2:
                continue
            gain = float(np.maximum(left - option.residual, 0.0).sum())
            if best is None or gain > best[0]:
                best = (gain, name)
        if best is None:
            break
        layer = options.pop(best[1])
        solid = (layer.coverage >= 0.85) & (layer.residual < np.minimum(left, UNLIKE))
        if int(solid.sum()) >= 20:
            layer = _layer(rgb, lab, ground, np.median(rgb[solid], axis=0))
        layers.append(layer)
        left = np.minimum(left, layer.residual)
    return layers, left > UNLIKE


def _split(layers: list[_Layer], unlike: Mask) -> tuple[list[Mask], list[int], list[Mask]]:
    """Cut the picture into object masks, the layer each belongs to, and fragments.

    Pixels of foreign colours form a last layer, so a shape of no known colour is an object too.
    """
    nearest = np.argmin(np.stack([layer.residual for layer in layers]), axis=0) if layers else None
    found: list[tuple[int, Mask, int]] = []
    for index in range(len(layers) + 1):
        if index == len(layers):
            mask = unlike
        else:
            mask = (nearest == index) & (layers[index].coverage >= 0.5) & ~unlike
        labels, count = components(mask)
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        for number in range(1, count + 1):
            if sizes[number] >= _MIN_FRAGMENT:
                found.append((int(sizes[number]), labels == number, index))
    found.sort(key=lambda entry: -entry[0])
    layer_of = np.full(unlike.shape, -1)
    for _, mask, owner in found:
        layer_of[mask] = owner

    masks: list[Mask] = []
    owners: list[int] = []
    fragments: list[Mask] = []
    for area, mask, owner in found:
        same = [n for n in range(len(masks)) if owners[n] == owner]
        others = (layer_of >= 0) & (layer_of != owner)
        home = next((n for n in same if _belongs(mask, masks[n], others)), None)
        if home is not None:
            masks[home] = masks[home] | mask
        elif area >= _MIN_OBJECT and not _is_fringe(mask, masks):
            masks.append(mask)
            owners.append(owner)
        else:
            fragments.append(mask)
    return masks, owners, fragments


def _belongs(mask: Mask, other: Mask, others: Mask) -> bool:
    """Whether two regions of one colour are parts of one object; `others` has other colours.

    The second circle of an outlined ring lies inside the first. Pieces that something drawn over
    them has cut apart, or pieces of a broken stroke, lie close together.
    """
    if bool((dilate(mask, _CUT) & other).any()):
        cut = bool((dilate(mask, 3) & others).any())
        if cut or not erode(mask, 3).any():
            return True
    for axis in (0, 1):
        inner, outer = np.flatnonzero(mask.any(axis=axis)), np.flatnonzero(other.any(axis=axis))
        if inner[0] < outer[0] or inner[-1] > outer[-1]:
            return False
    return True


def _is_fringe(mask: Mask, masks: list[Mask]) -> bool:
    """Whether a region is only the mixed seam between objects: thin, and touching them."""
    thin = int(erode(mask, 1).sum()) < 0.15 * int(mask.sum())
    return thin and any(int((dilate(other, 2) & mask).sum()) > 0.5 * mask.sum() for other in masks)


def _blame(masks: list[Mask], fragments: list[Mask]) -> tuple[list[float], Mask]:
    """Share of stain for each object, and the mask of clutter on the background.

    A fragment that touches two objects is the mixed seam between them and counts for nothing.
    """
    stains = [0.0] * len(masks)
    clutter = np.zeros((SIDE, SIDE), dtype=bool)
    near = [dilate(mask, 2) for mask in masks]
    for fragment in fragments:
        touched = [index for index, zone in enumerate(near) if bool((zone & fragment).any())]
        if not touched:
            clutter |= fragment
        elif len(touched) == 1:
            stains[touched[0]] += float(fragment.sum()) / float(masks[touched[0]].sum())
            masks[touched[0]] = masks[touched[0]] | fragment
    return stains, clutter


def _read_object(layer: _Layer, mask: Mask, land: Mask, others: Mask, stain: float) -> SceneObject:
    """Read colour, style, shape and size of one object.

    `land` holds the pixels nearest to this object, `others` those of other objects.
    """
    coverage = np.where(land, layer.coverage, 0.0).astype(np.float32)
    coverage[mask & (layer.residual >= UNLIKE)] = 1.0
    clear = land & ~dilate(others, 4)
    length = max(perimeter(coverage, clear), 1.0)
    # Noise on full and on empty coverage would count as edge: the outer tenths are cut off.
    inner = np.clip((coverage - 0.1) / 0.8, 0.0, 1.0)
    edge = 4 * float((inner * (1 - inner))[clear].sum()) / length
    # From the mask, not the coverage: a little blur must not make a stroke look wide.
    filled = mask.astype(np.float32)
    stroke = 2 * float(mask[clear].sum()) / max(perimeter(filled, clear), 1.0)

    outlined = stroke < _STROKE_LIMIT
    inside = holes(mask)
    if outlined:
        fits = fit_stroke(mask, dilate(others, 1), _STROKE_HALF)
    else:
        fits = fit_filled(mask | inside, ~dilate(others, 1))
    hollow = float(inside.sum()) / float((mask | inside).sum())
    radius = fits[0].radius / SIDE
    size = None
    for name, low, high in zip(
        ("small", "plain", "large"), _SIZE_EDGES, _SIZE_EDGES[1:], strict=False
    ):
        if low <= radius < high:
            size = name
    return SceneObject(
        colour=nearest_name(layer.rgb, COLOUR_LIMIT),
        shape=_shape(fits, hollow, outlined),
        size=size,
        style=_style(edge, outlined),
        x=fits[0].x / SIDE,
        y=fits[0].y / SIDE,
        radius=radius,
        edge=edge,
        score=fits[0].score,
        stain=stain,
    )


def _shape(fits: list[Fit], hollow: float, outlined: bool) -> str | None:
    """Name the shape from the best fits and, for filled ones, from the share that is a hole."""
    best, second = fits[0], fits[1]
    if best.score < FIT_LIMIT or best.score - second.score < FIT_MARGIN:
        return None
    if outlined or hollow < 0.04:
        return best.shape
    if best.shape == "circle" and 0.6 < np.sqrt(hollow) / RING_HOLE < 1.35:
        return "ring"
    return None


def _style(edge: float, outlined: bool) -> str | None:
    """Name the style from the width of the edges in pixels."""
    if edge <= FLAT_EDGE:
        return "outline" if outlined else "flat"
    if not outlined and SOFT_EDGES[0] <= edge <= SOFT_EDGES[1]:
        return "soft"
    return None
