from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from sdlite.engine import TensorSpec
from sdlite.errors import PackageInvalid, RequestError
from sdlite.ports import DecoderPort, EncoderPort, TextEncoderPort, UnetPort
from sdlite.types import Array

Dims = tuple[int | str, ...]
LATENTS: Dims = ("batch", 4, "height", "width")


class Fake:
    """A session that casts and checks shapes as an engine does, and remembers its calls."""

    def __init__(
        self,
        inputs: Mapping[str, tuple[str, Dims]],
        outputs: Mapping[str, Callable[..., Array]],
    ) -> None:
        self.inputs = tuple(TensorSpec(name, *spec) for name, spec in inputs.items())
        self.outputs = tuple(TensorSpec(name, "float32", ()) for name in outputs)
        self._functions = outputs
        self.calls: list[dict[str, Array]] = []

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        assert set(inputs) == {spec.name for spec in self.inputs}
        feeds = {}
        for spec in self.inputs:
            value = np.asarray(inputs[spec.name], spec.dtype)
            assert value.ndim == len(spec.shape), spec.name
            for size, extent in zip(spec.shape, value.shape, strict=True):
                assert isinstance(size, str) or size == extent, spec.name
            feeds[spec.name] = value
        self.calls.append(feeds)
        return {name: function(**feeds) for name, function in self._functions.items()}

    def close(self) -> None:
        pass


def predicts(sample: Array, timestep: Array, encoder_hidden_states: Array) -> Array:
    """Depends on each item's own timestep and context, so that mix-ups show."""
    times = np.broadcast_to(np.asarray(timestep, np.float32).reshape(-1), len(sample))
    context = encoder_hidden_states.mean(axis=(1, 2))
    return sample * 2 + (times + context)[:, None, None, None]


def unet(
    timestep: tuple[str, Dims] = ("float32", ("batch",)),
    batch: int | str = "batch",
    **more: tuple[str, Dims],
) -> Fake:
    inputs: dict[str, tuple[str, Dims]] = {
        "sample": ("float32", (batch, 4, "height", "width")),
        "timestep": timestep,
        "encoder_hidden_states": ("float32", (batch, "tokens", 3)),
        **more,
    }
    return Fake(inputs, {"out_sample": predicts})


@pytest.fixture
def x() -> Array:
    return np.random.default_rng(0).standard_normal((3, 4, 2, 2)).astype(np.float32)


@pytest.fixture
def context() -> Array:
    return np.random.default_rng(1).standard_normal((3, 5, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("timestep", "calls"),
    [
        (("float32", ("batch",)), 1),
        (("float32", ()), 1),
        (("float32", (1,)), 1),
        (("float32", ("steps",)), 1),
        (("int64", ()), 1),
        (("int64", ("batch",)), 1),
    ],
)
def test_every_kind_of_timestep(
    x: Array, context: Array, timestep: tuple[str, Dims], calls: int
) -> None:
    session = unet(timestep)
    times = np.full(3, 7.0, np.float32)
    result = UnetPort(session).predict(x, times, context)
    np.testing.assert_array_equal(result, predicts(x, times, context))
    assert result.dtype == np.float32
    assert len(session.calls) == calls
    given = session.calls[0]["timestep"]
    expected = {"batch": (3,), "steps": (1,), 1: (1,)}
    assert given.shape == (expected[timestep[1][0]] if timestep[1] else ())


@pytest.mark.parametrize("shape", [("batch",), (), (1,), ("steps",)])
def test_timesteps_that_differ(x: Array, context: Array, shape: Dims) -> None:
    times = np.array([1.0, 2.0, 3.0], np.float32)
    session = unet(("float32", shape))
    result = UnetPort(session).predict(x, times, context)
    np.testing.assert_array_equal(result, predicts(x, times, context))
    assert len(session.calls) == (1 if shape == ("batch",) else 3)


def test_a_graph_for_one_length_of_prompts(x: Array, context: Array) -> None:
    session = unet()
    session.inputs = tuple(
        TensorSpec(spec.name, spec.dtype, ("batch", 3, 3))
        if spec.name == "encoder_hidden_states"
        else spec
        for spec in session.inputs
    )
    with pytest.raises(RequestError, match="the prompt takes 5 tokens, this model's graph 3 only"):
        UnetPort(session).predict(x, np.ones(3, np.float32), context)
    assert UnetPort(session).predict(x, np.ones(3, np.float32), context[:, :3]).shape == x.shape


def test_whole_timesteps_are_rounded(x: Array, context: Array) -> None:
    session = unet(("int64", ()))
    port = UnetPort(session)
    assert port.whole_timesteps
    port.predict(x, np.full(3, 6.6, np.float32), context)
    assert int(session.calls[0]["timestep"]) == 7
    assert not UnetPort(unet()).whole_timesteps


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
@pytest.mark.parametrize("each", [True, False])
def test_fixed_batch(x: Array, context: Array, batch: int, each: bool) -> None:
    session = unet(("float32", (batch,) if each else (1,)), batch)
    times = np.full(3, 5.0, np.float32)
    result = UnetPort(session).predict(x, times, context)
    np.testing.assert_array_equal(result, predicts(x, times, context))
    assert len(session.calls) == -(-3 // batch)


def test_unet_that_needs_more() -> None:
    with pytest.raises(PackageInvalid, match="also takes image_embeds, other_labels"):
        UnetPort(
            unet(image_embeds=("float32", ("batch", 6)), other_labels=("float32", ("batch", 8)))
        )


def test_no_unet() -> None:
    with pytest.raises(PackageInvalid, match="none of timestep"):
        UnetPort(Fake({"sample": ("float32", LATENTS)}, {"y": np.asarray}))


def text(*, pooled: bool = True, **inputs: tuple[str, Dims]) -> Fake:
    def hidden(input_ids: Array, **others: Array) -> Array:
        result = input_ids[:, :, None] * np.ones(4)
        return sum((value[..., None] for value in others.values() if value.ndim == 2), result)

    outputs: dict[str, Callable[..., Array]] = {"last_hidden_state": hidden}
    if pooled:
        outputs["pooler_output"] = lambda **feeds: hidden(**feeds)[:, -1]
    return Fake({"input_ids": ("int32", ("batch", "sequence")), **inputs}, outputs)


IDS = np.arange(6, dtype=np.int64).reshape(2, 3)


def test_text_encoder() -> None:
    session = text()
    port = TextEncoderPort(session)
    features = port.encode(IDS)
    assert features.hidden.shape == (2, 3, 4)
    assert features.hidden.dtype == np.float32
    assert features.pooled is not None
    assert features.pooled.shape == (2, 4)
    assert session.calls[0]["input_ids"].dtype == np.int32
    np.testing.assert_array_equal(port.encode_text(IDS), features.hidden)
    assert TextEncoderPort(text(pooled=False)).encode(IDS).pooled is None


def test_text_encoder_with_mask_and_fixed_batch() -> None:
    session = text(attention_mask=("int64", ("batch", "sequence")))
    np.testing.assert_array_equal(
        TextEncoderPort(session).encode_text(IDS)[..., 0], IDS.astype(np.float32) + 1
    )
    one = Fake(
        {"input_ids": ("int64", (1, 3))},
        {"last_hidden_state": lambda input_ids: input_ids[..., None]},
    )
    np.testing.assert_array_equal(TextEncoderPort(one).encode_text(IDS)[..., 0], IDS)


def test_text_encoder_with_embeddings() -> None:
    port = TextEncoderPort(text(inputs_embeds=("float32", ("batch", "sequence", 4))))
    assert port.takes_embeddings
    embeds = np.zeros((2, 3, 4), np.float32)
    assert port.encode(IDS, embeds).hidden.shape == (2, 3, 4)
    with pytest.raises(RequestError, match="needs token embeddings"):
        port.encode(IDS)
    with pytest.raises(RequestError, match="does not take"):
        TextEncoderPort(text()).encode(IDS, embeds)


def test_text_encoder_with_earlier_layers() -> None:
    session = text()
    session.outputs += (TensorSpec("clip_skip_2", "float32", ("batch", "sequence", 4)),)
    session.run = lambda feeds: {
        "last_hidden_state": np.zeros((2, 3, 4)),
        "clip_skip_2": np.ones((2, 3, 4)),
        "pooler_output": np.zeros((2, 4)),
    }
    port = TextEncoderPort(session)
    assert port.clip_skips == (1, 2)
    assert (port.encode(IDS).hidden == 0).all()
    assert (port.encode(IDS, clip_skip=2).hidden == 1).all()
    with pytest.raises(RequestError, match=r"clip skip 3 is not among .*: 1, 2; .*export again"):
        port.encode(IDS, clip_skip=3)


def test_decoder_with_a_name_of_its_own() -> None:
    session = Fake({"z": ("float16", (1, 4, "h", "w"))}, {"image": lambda z: z.astype(np.float16)})
    latents = np.ones((2, 4, 2, 2), np.float32)
    result = DecoderPort(session).decode(latents)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, latents)
    assert len(session.calls) == 2


def test_encoder_with_moments() -> None:
    def moments(sample: Array) -> Array:
        return np.concatenate([sample[:, :1].repeat(4, 1), sample[:, 1:2].repeat(4, 1)], axis=1)

    session = Fake({"sample": ("float32", ("b", 3, "h", "w"))}, {"latent_parameters": moments})
    port = EncoderPort(session)
    picture = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
    found = port.encode(picture)
    assert not port.draws
    assert found.logvar is not None
    np.testing.assert_array_equal(found.mean, picture[:, :1].repeat(4, 1))
    np.testing.assert_array_equal(found.logvar, picture[:, 1:2].repeat(4, 1))
    assert found.mean.flags.c_contiguous


def test_encoder_that_draws() -> None:
    session = Fake(
        {"sample": ("float32", ("b", 3, "h", "w"))},
        {"latent_sample": lambda sample: sample[:, :1].repeat(4, 1)},
    )
    port = EncoderPort(session)
    assert port.draws
    found = port.encode(np.ones((1, 3, 2, 2), np.float32))
    assert found.mean.shape == (1, 4, 2, 2)
    assert found.logvar is None
