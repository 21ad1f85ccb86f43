"""LoRAs and embeddings on the model that ships, on each engine: drawn, switched, baked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from click.testing import Result as Invoked

import sdlite
from sdlite import LoraUse, Package, registry
from sdlite.bake import bake
from sdlite.cli import main
from sdlite.errors import OutputError, RequestError, RuntimeUnavailable
from sdlite.metadata import parse
from sdlite.types import Result
from sdlite.weights.lora import layer_shape, names_of
from sdlite.weights.names import Target
from tests.adapters import SHAPES, Array, write, write_torch

PROMPT = "a red circle on a blue background"
RUNTIMES = ("onnxruntime", "openvino")


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    try:
        registry.get(name).probe()
    except RuntimeUnavailable as error:
        pytest.skip(str(error))
    return name


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with two LoRAs and an embedding in its model folder."""
    place = tmp_path / "home"
    monkeypatch.setenv("SDLITE_HOME", str(place))
    (place / "models" / "loras").mkdir(parents=True)
    (place / "models" / "embeddings").mkdir()
    random_lora(place / "models" / "loras" / "one.safetensors", 1)
    random_lora(place / "models" / "loras" / "two.safetensors", 2)
    return place


def random_lora(path: Path, seed: int) -> Path:
    """A LoRA of every attention layer and convolution of the shapes model, and its text encoder."""
    package = Package.open(SHAPES)
    names_of(package)
    rng = np.random.default_rng(seed)
    tensors: dict[str, Array] = {}
    for component, prefix in (("unet", "lora_unet_"), ("text_encoder", "lora_te_")):
        for name in package.manifest.weights[component].tensors:
            module = name.removesuffix(".weight")
            shape = layer_shape(package, Target(component, module))
            if shape is None or len(shape) < 2 or "embedding" in module:
                continue
            sides = shape[2:]
            stem = prefix + module.replace(".", "_")
            down = rng.standard_normal((4, shape[1], *sides)) / np.prod(shape[1:]) ** 0.5
            up = rng.standard_normal((shape[0], 4, *(1 for _ in sides))) * 0.02
            tensors[f"{stem}.lora_down.weight"] = down.astype(np.float16)
            tensors[f"{stem}.lora_up.weight"] = up.astype(np.float16)
            tensors[f"{stem}.alpha"] = np.array(4, np.float16)
    return write(path, tensors)


@pytest.fixture
def pipe(runtime: str, home: Path) -> Iterator[sdlite.Pipeline]:
    with sdlite.load(SHAPES, runtime=runtime, precision="fp32", threads=1) as opened:
        yield opened


def draw(pipe: sdlite.Pipeline, prompt: str = PROMPT, *loras: LoraUse) -> Result:
    return pipe.generate(prompt, seed=3, steps=3, loras=loras)


def pixels(result: Result) -> Array:
    return np.asarray(result.images[0])


def loads(result: Result) -> dict[str, bool]:
    """Which phases opened a graph."""
    return {phase.name: phase.load_seconds > 0 for phase in result.phases}


def test_a_picture_begun_with_another_lora_is_told(home: Path, tmp_path: Path) -> None:
    """A state remembers which files it was begun with, not only their names."""

    def run(*words: str) -> Invoked:
        return CliRunner().invoke(main, [*words, "-o", str(tmp_path / "a.png"), "--overwrite"])

    state = str(tmp_path / "a-{step}.state")
    job = ("generate", f"{PROMPT}<lora:one:1>", "--model", str(SHAPES), "--steps", "3")
    saving = ("--save-state", state, "--save-every", "2", "--threads", "1")
    assert run(*job, *saving).exit_code == 0
    begun = tmp_path / "a-2.state"
    kept = begun.read_bytes()
    done = run("resume", str(begun))
    assert done.exit_code == 0 and "note:" not in done.stderr
    begun.write_bytes(kept)
    random_lora(home / "models" / "loras" / "one.safetensors", 5)
    done = run("resume", str(begun))
    assert done.exit_code == 0, done.output
    assert "note: the picture was begun with one: " in done.stderr
    assert "it will be another one" in done.stderr


def test_draws_switches_and_bakes(pipe: sdlite.Pipeline, runtime: str, tmp_path: Path) -> None:
    plain = draw(pipe)
    nothing = draw(pipe, PROMPT, LoraUse("one", 0.0))
    assert np.array_equal(pixels(nothing), pixels(plain))
    one = draw(pipe, PROMPT, LoraUse("one"))
    assert not np.array_equal(pixels(one), pixels(plain))
    assert loads(one) == {"text": True, "denoise": True, "decode": False}
    again = draw(pipe, f"{PROMPT}<lora:one:1>")
    assert np.array_equal(pixels(again), pixels(one)) and not any(loads(again).values())
    unet_only = draw(pipe, PROMPT, LoraUse("one", 1.0, text_encoder=0.0))
    assert loads(unet_only)["text"] and not loads(unet_only)["denoise"]
    both = draw(pipe, PROMPT, LoraUse("one"), LoraUse("two", -0.5))
    assert not np.array_equal(pixels(both), pixels(one))
    assert np.array_equal(pixels(draw(pipe)), pixels(plain))

    for result in (one, again):
        found = parse(result.infotexts[0])
        assert "<lora:one:1>" in found.prompt
        assert found.fields["Lora hashes"].startswith("one: ")
        assert len(found.fields["Lora hashes"]) == len("one: ") + 12
    text = parse(both.infotexts[0]).fields["Lora hashes"]
    assert "one: " in text and ", two: " in text

    uses = [LoraUse("one"), LoraUse("two", -0.5)]
    package = bake(pipe.package, uses, tmp_path / "baked")
    package.verify()
    assert package.manifest.source.name.endswith("with <lora:one:1> <lora:two:-0.5>")
    assert package.manifest.source.sha256 != pipe.package.manifest.source.sha256
    with sdlite.load(package.root, runtime=runtime, precision="fp32", threads=1) as other:
        assert np.array_equal(pixels(draw(other)), pixels(both))
    with pytest.raises(OutputError, match="is a package already; --force replaces it"):
        bake(pipe.package, uses, tmp_path / "baked")
    with pytest.raises(RequestError, match=r"<lora:one:0> changes no weight"):
        bake(pipe.package, [LoraUse("one", 0.0)], tmp_path / "other")
    with pytest.raises(RequestError, match="nothing to bake"):
        bake(pipe.package, [], tmp_path / "other")


def test_never_serves_another_loras_weights(home: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    pictures = {}
    for _ in range(2):
        for name in ("one", "two", None):
            uses = () if name is None else (LoraUse(name),)
            with sdlite.load(SHAPES, runtime="openvino", precision="fp32", threads=1) as pipe:
                found = pixels(draw(pipe, PROMPT, *uses))
            assert np.array_equal(pictures.setdefault(name, found), found)
    assert len({picture.tobytes() for picture in pictures.values()}) == 3


def test_missing_names(pipe: sdlite.Pipeline) -> None:
    result = draw(pipe, f"{PROMPT} <lora:onne:1>")
    (note,) = result.notes
    assert "<lora:onne> in the prompt is not applied: unknown LoRA 'onne'" in note
    assert "Did you mean 'one'?" in note
    with pytest.raises(sdlite.UnknownName, match="Did you mean 'two'"):
        draw(pipe, PROMPT, LoraUse("twoo"))


def test_plans_count_replaced_weights(pipe: sdlite.Pipeline) -> None:
    plain = pipe.plan(sdlite.Request(PROMPT))
    more = pipe.plan(sdlite.Request(PROMPT, loras=(LoraUse("one"),)))
    assert dict(more.shape.replaced).keys() == {"text_encoder", "unet"}
    for name, size in more.shape.replaced:
        added = more.placement(name).private_bytes - plain.placement(name).private_bytes
        assert added == size > 0


def test_embeddings(pipe: sdlite.Pipeline, home: Path) -> None:
    rng = np.random.default_rng(0)
    package = pipe.package
    from sdlite.weights.embeddings import TABLE
    from sdlite.weights.stored import read_stored

    table = read_stored(package, "text_encoder", TABLE).astype(np.float32)
    (red,) = pipe._phases.adapters._tokenizers[0].tokenize(["red circle"])
    folder = home / "models" / "embeddings"
    # A word with the vectors of two words draws what the two words draw.
    write(folder / "zork.safetensors", {"emb_params": table[list(red)]})
    words = draw(pipe, "a red circle on a blue background")
    found = draw(pipe, "a zork on a blue background")
    assert np.abs(pixels(found).astype(int) - pixels(words)).max() <= 1
    fields = parse(found.infotexts[0]).fields
    assert fields["TI hashes"].startswith("zork: ")
    weighted = draw(pipe, "a (zork:0.7) on a blue background")
    assert np.abs(pixels(weighted).astype(int) - pixels(found)).max() > 1
    same = draw(pipe, "a (red circle:0.7) on a blue background")
    assert np.abs(pixels(weighted).astype(int) - pixels(same)).max() <= 1
    changing = draw(pipe, "a [blue square:zork:1] on a blue background")
    expected = draw(pipe, "a [blue square:red circle:1] on a blue background")
    assert np.abs(pixels(changing).astype(int) - pixels(expected)).max() <= 1

    # A1111's .pt, in the negative prompt, by file, together with a LoRA.
    vectors = rng.standard_normal((3, table.shape[1])).astype(np.float32) * table.std()
    value = {"string_to_token": {"*": 265}, "string_to_param": {"*": vectors}, "name": "bad"}
    path = write_torch(home / "bad-things.pt", value)
    kwargs = {"seed": 3, "steps": 2, "loras": [LoraUse("one")]}
    plain = pipe.generate(PROMPT, negative_prompt="bad-things", **kwargs)
    told = pipe.generate(PROMPT, negative_prompt="bad-things", embeddings=[path], **kwargs)
    assert not np.array_equal(pixels(told), pixels(plain))
    assert "TI hashes" in parse(told.infotexts[0]).fields and not told.notes
    unused = pipe.generate(PROMPT, embeddings=[path], seed=3, steps=1)
    assert any("so the embedding bad-things.pt does nothing" in note for note in unused.notes)

    # Of another family: refused by file, read as words from a folder.
    wide = write(folder / "wide.safetensors", {"emb_params": np.ones((1, 768), np.float32)})
    with pytest.raises(RequestError, match=r"has vectors 768 wide; .* take 128"):
        pipe.generate("wide", embeddings=[wide], steps=1)
    result = pipe.generate("a wide circle", steps=1, seed=1)
    assert any(note.startswith("wide in the prompt is read as words") for note in result.notes)
