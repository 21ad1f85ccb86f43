"""What the pipeline calls: each component as a plain function, whatever its graph calls things.

Our own graphs and those of optimum and diffusers differ in names, in the dtype and rank of the
timestep, in how the autoencoder's latents come out, and in whether the batch is fixed. Names are
read from the session. All of it is settled here; sessions cast dtypes themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sdlite.engine import Session, TensorSpec
from sdlite.errors import PackageInvalid, RequestError
from sdlite.types import Array, Cond, Float32

# What a role is called, the usual name first.
NAMES = {
    "ids": ("input_ids", "tokens"),
    "mask": ("attention_mask",),
    "embeds": ("inputs_embeds",),
    "hidden": ("last_hidden_state", "hidden_embeds", "prompt_embeds"),
    "pooled": ("text_embeds", "pooler_output", "pooled_outputs", "pooled_output"),
    "noisy": ("sample", "latent_model_input", "x"),
    "timestep": ("timestep", "timesteps", "t"),
    "context": ("encoder_hidden_states", "context"),
    "hint": ("controlnet_cond",),
    "prediction": ("out_sample", "noise_pred", "sample"),
    "latents": ("latent_sample", "latents", "z"),
    "picture": ("sample", "image", "x"),
    # Apple's encoder calls its moments "latent".
    "moments": ("latent_parameters", "moments", "parameters", "latent"),
    "drawn": ("latent_sample", "latents"),
}

CLIP_SKIP = "clip_skip_"
"""Begins the names of a text encoder's outputs for earlier layers: ``clip_skip_2`` is the states of
the second last layer after the final norm."""
GUIDANCE = "timestep_cond"
CLASSES = "class_labels"
ADDED = ("text_embeds", "time_ids", GUIDANCE, CLASSES)
"""What a U-Net may be told beside time and text, by the graph's names: SDXL's pooled text and
sizes, the guidance scale of LCM's, and the noise level of upscalers'."""
RESIDUALS = ("down_residual_", "mid_residual", "adapter_feature_")
"""Starts of the names of what ControlNets and T2I-Adapters say to a U-Net: a graph that takes it
gets it in ``added``."""
IMAGE_PROMPT = ("image_keys", "image_values")
"""What IP-Adapters make of pictures for a U-Net: keys and values of all its cross-attentions,
``(batch, image_tokens, channels)``."""
CHANNELS = "channels"
"""Among a U-Net's added inputs: what is put beside the noisy latents, as more channels."""


@dataclass(frozen=True)
class TextFeatures:
    """What a text encoder gives."""

    hidden: Float32
    """``(batch, tokens, width)``: the last layer that was asked for, normalised."""
    pooled: Float32 | None
    """``(batch, width)``; None when the graph does not give it."""


@dataclass(frozen=True)
class EncodedPicture:
    """What an autoencoder makes of a picture, not yet scaled."""

    mean: Float32
    """``(batch, channels, height/8, width/8)``."""
    logvar: Float32 | None
    """Log-variance, same shape; None when the graph drew a sample itself, which ``mean`` is then
    (not the same from call to call)."""


def bind(specs: Sequence[TensorSpec], role: str) -> TensorSpec | None:
    """The input or output of a graph that plays a role of ``NAMES``; None when there is none."""
    by_name = {spec.name: spec for spec in specs}
    for name in NAMES[role]:
        if name in by_name:
            return by_name[name]
    return None


def guidance_width(specs: Sequence[TensorSpec]) -> int | None:
    """Width of the guidance scale's embedding a U-Net's graph takes; None when it takes none."""
    for spec in specs:
        if spec.name == GUIDANCE and isinstance(spec.shape[-1], int):
            return spec.shape[-1]
    return None


def _need(specs: Sequence[TensorSpec], role: str, what: str) -> TensorSpec:
    spec = bind(specs, role)
    if spec is None:
        there = ", ".join(item.name for item in specs)
        raise PackageInvalid(
            f"the {what} graph has none of {', '.join(NAMES[role])} among {there}; "
            "it is not a graph sdlite can use"
        )
    return spec


def _refuse_others(session: Session, known: Sequence[TensorSpec | None], what: str) -> None:
    names = {spec.name for spec in known if spec is not None}
    others = [spec.name for spec in session.inputs if spec.name not in names]
    if others:
        raise PackageInvalid(
            f"the {what} graph also takes {', '.join(others)}, which sdlite does not know; "
            "models that need it are not supported"
        )


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def _only(specs: Sequence[TensorSpec], role: str, what: str) -> TensorSpec:
    """The tensor of a role; a graph with one tensor needs no name for it."""
    return specs[0] if len(specs) == 1 else _need(specs, role, what)


class _Batched:
    """Runs a session; a graph with a fixed batch is called as often as needed."""

    def __init__(self, session: Session, leader: TensorSpec) -> None:
        self._session = session
        fixed = leader.shape[0] if leader.shape else None
        self._fixed = fixed if isinstance(fixed, int) else None

    def run(
        self, feeds: dict[str, Array], shared: dict[str, Array] | None = None
    ) -> dict[str, Array]:
        """Run on arrays that share their first axis; ``shared`` goes to every call as it is."""
        count = len(next(iter(feeds.values())))
        shared = shared or {}
        if self._fixed is None or self._fixed == count:
            return self._session.run(feeds | shared)
        pieces = []
        for start in range(0, count, self._fixed):
            # The last call repeats the last item to fill the batch.
            index = np.minimum(np.arange(start, start + self._fixed), count - 1)
            part = {name: value[index] for name, value in feeds.items()}
            outputs = self._session.run(part | shared)
            pieces.append({name: value[: count - start] for name, value in outputs.items()})
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


class TextEncoderPort:
    """Token ids to text features."""

    def __init__(self, session: Session) -> None:
        """Bind a session; raises ``PackageInvalid`` when it is no text encoder."""
        self._ids = _need(session.inputs, "ids", "text encoder")
        self._mask = bind(session.inputs, "mask")
        self._embeds = bind(session.inputs, "embeds")
        _refuse_others(session, (self._ids, self._mask, self._embeds), "text encoder")
        self._hidden = _need(session.outputs, "hidden", "text encoder")
        self._pooled = bind(session.outputs, "pooled")
        self._layers = {1: self._hidden.name} | {
            int(spec.name.removeprefix(CLIP_SKIP)): spec.name
            for spec in session.outputs
            if spec.name.startswith(CLIP_SKIP)
        }
        self._batched = _Batched(session, self._ids)

    @property
    def takes_embeddings(self) -> bool:
        """Whether ``embeds`` is needed."""
        return self._embeds is not None

    @property
    def clip_skips(self) -> tuple[int, ...]:
        """Layers whose states can be had, counted from the end; 1 is the last."""
        return tuple(sorted(self._layers))

    def encode_text(self, ids: npt.NDArray[np.int64]) -> Float32:
        """Token ids int64 ``(batch, tokens)`` to features float32 ``(batch, tokens, width)``."""
        return self.encode(ids).hidden

    def encode(
        self, ids: npt.NDArray[np.int64], embeds: Float32 | None = None, clip_skip: int = 1
    ) -> TextFeatures:
        """Encode.

        Args:
            ids: int64 ``(batch, tokens)``, begin and end tokens included.
            embeds: float32 ``(batch, tokens, width)``: token embeddings before positions are added;
                needed, and only taken, when ``takes_embeddings``.
            clip_skip: the layer whose states are wanted, one of ``clip_skips``.

        Raises:
            EngineError: the engine failed.
            RequestError: ``embeds`` is given to a graph without them, or missing; or the graph
                does not give the layer.
        """
        if clip_skip not in self._layers:
            layers = ", ".join(map(str, self.clip_skips))
            raise RequestError(
                f"clip skip {clip_skip} is not among those of this model's text encoder: {layers}; "
                "packages made by an older sdlite or another program may have 1 only: export again"
            )
        if self.takes_embeddings != (embeds is not None):
            told = "needs" if self.takes_embeddings else "does not take"
            raise RequestError(f"this text encoder graph {told} token embeddings")
        feeds: dict[str, Array] = {self._ids.name: ids}
        if self._embeds is not None and embeds is not None:
            feeds[self._embeds.name] = embeds
        if self._mask is not None:
            feeds[self._mask.name] = np.ones_like(ids)
        outputs = self._batched.run(feeds)
        pooled = None if self._pooled is None else _float32(outputs[self._pooled.name])
        return TextFeatures(_float32(outputs[self._layers[clip_skip]]), pooled)


class UnetPort:
    """The network that predicts noise or velocity."""

    def __init__(self, session: Session) -> None:
        """Bind a session; raises ``PackageInvalid`` when it is no such U-Net."""
        self._noisy = _need(session.inputs, "noisy", "U-Net")
        self._timestep = _need(session.inputs, "timestep", "U-Net")
        self._context = _need(session.inputs, "context", "U-Net")
        added = [
            spec
            for spec in session.inputs
            if spec.name in (*ADDED, *IMAGE_PROMPT) or spec.name.startswith(RESIDUALS)
        ]
        _refuse_others(session, (self._noisy, self._timestep, self._context, *added), "U-Net")
        self._added = frozenset(spec.name for spec in added)
        self._output = _only(session.outputs, "prediction", "U-Net").name
        self._batched = _Batched(session, self._noisy)
        # A free dimension of its own ("steps" in some exports) is broadcast inside the graph.
        times = self._timestep.shape
        self._scalar = not times
        self._each = bool(times) and times[0] == self._noisy.shape[0]

    @property
    def whole_timesteps(self) -> bool:
        """Whether the graph takes integers, so that fractional timesteps are rounded."""
        return self._timestep.dtype.startswith("int")

    def predict(
        self,
        x: Float32,
        timestep: Float32,
        context: Float32,
        added: Mapping[str, Float32] | None = None,
    ) -> Float32:
        """Predict.

        Args:
            x: float32 ``(batch, channels, height, width)``, scaled as the model expects.
            timestep: float32 ``(batch,)``, 0 to ``train_steps - 1``, fractions allowed.
            context: float32 ``(batch, tokens, width)``.
            added: further inputs by the graph's names, ``(batch, ...)`` each; ``CHANNELS`` is no
                input of its own but more channels of ``x``.

        Returns:
            float32, shaped like ``x``.

        Raises:
            RequestError: the graph takes another number of tokens only.
            PackageInvalid: the graph takes something that is not among ``added``, or the reverse.
        """
        # Apple's U-Nets take features as (batch, width, 1, tokens).
        turned = len(self._context.shape) == 4
        tokens = self._context.shape[3 if turned else 1]
        if isinstance(tokens, int) and tokens != context.shape[1]:
            raise RequestError(
                f"the prompt takes {context.shape[1]} tokens, this model's graph {tokens} only; "
                "shorten the prompt, and leave BREAK out"
            )
        added = dict(added or {})
        if CHANNELS in added:
            x = np.concatenate([x, added.pop(CHANNELS)], axis=1)
        if added.keys() != self._added:
            raise PackageInvalid(
                f"the U-Net graph takes {_list(self._added)} beside time and text, the model's "
                f"family gives {_list(added)}; export the model again"
            )
        times = np.rint(timestep) if self.whole_timesteps else timestep
        if not self._each and np.any(times != times[0]):
            parts = [slice(i, i + 1) for i in range(len(x))]
            return np.concatenate(
                [
                    self.predict(x[p], times[p], context[p], {n: v[p] for n, v in added.items()})
                    for p in parts
                ]
            )
        seen = context.transpose(0, 2, 1)[:, :, None] if turned else context
        feeds: dict[str, Array] = {self._noisy.name: x, self._context.name: seen, **added}
        shared: dict[str, Array] = {}
        if self._each:
            feeds[self._timestep.name] = times
        else:
            shared[self._timestep.name] = times[0].reshape(()) if self._scalar else times[:1]
        return _float32(self._batched.run(feeds, shared)[self._output])


class ControlNetPort:
    """A network that tells the U-Net what a picture shows."""

    def __init__(self, session: Session) -> None:
        """Bind a session; raises ``PackageInvalid`` when it is no such network."""
        self._noisy = _need(session.inputs, "noisy", "ControlNet")
        self._timestep = _need(session.inputs, "timestep", "ControlNet")
        self._context = _need(session.inputs, "context", "ControlNet")
        self._hint = _need(session.inputs, "hint", "ControlNet")
        added = [spec for spec in session.inputs if spec.name in ADDED]
        known = (self._noisy, self._timestep, self._context, self._hint, *added)
        _refuse_others(session, known, "ControlNet")
        self._added = tuple(spec.name for spec in added)
        self._batched = _Batched(session, self._noisy)

    def residuals(
        self, x: Float32, timestep: Float32, cond: Cond, hint: Float32
    ) -> dict[str, Float32]:
        """What it says.

        Args:
            x: latents as the U-Net sees them, ``(batch, channels, height, width)``.
            timestep: ``(batch,)``.
            cond: what the U-Net is told, of as many items.
            hint: the picture, ``(1, 3, height, width)`` in pixels, 0 to 1.

        Returns:
            By the names of the U-Net's inputs, ``(batch, ...)`` each.
        """
        feeds: dict[str, Array] = {
            self._noisy.name: x,
            self._timestep.name: timestep,
            self._context.name: cond.context,
            self._hint.name: np.repeat(hint, len(x), axis=0),
            **{name: cond.added[name] for name in self._added},
        }
        return {name: _float32(value) for name, value in self._batched.run(feeds).items()}


class DecoderPort:
    """Latents to pictures."""

    def __init__(self, session: Session) -> None:
        """Bind a session; raises ``PackageInvalid`` when it is no decoder."""
        self._input = _only(session.inputs, "latents", "decoder")
        self._output = _only(session.outputs, "picture", "decoder").name
        self._batched = _Batched(session, self._input)

    def decode(self, latents: Float32) -> Float32:
        """Latents ``(batch, channels, h, w)``, divided by the scale, to ``(batch, 3, 8h, 8w)``.

        Values are about -1 to 1.
        """
        return _float32(self._batched.run({self._input.name: latents})[self._output])


class EncoderPort:
    """Pictures to latents."""

    def __init__(self, session: Session) -> None:
        """Bind a session; raises ``PackageInvalid`` when it is no encoder."""
        self._input = _only(session.inputs, "picture", "encoder")
        moments = bind(session.outputs, "moments")
        self._drawn = moments is None
        self._output = (moments or _only(session.outputs, "drawn", "encoder")).name
        self._batched = _Batched(session, self._input)

    @property
    def draws(self) -> bool:
        """Whether the graph draws a sample itself, so that its answer changes from call to call."""
        return self._drawn

    def encode(self, picture: Float32) -> EncodedPicture:
        """Picture float32 ``(batch, 3, height, width)`` in -1 to 1 to latents, not yet scaled."""
        value = _float32(self._batched.run({self._input.name: picture})[self._output])
        if self._drawn:
            return EncodedPicture(value, None)
        mean, logvar = np.split(value, 2, axis=1)
        return EncodedPicture(np.ascontiguousarray(mean), np.ascontiguousarray(logvar))


def _float32(value: Array) -> Float32:
    return value.astype(np.float32, copy=False)
