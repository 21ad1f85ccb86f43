"""LoRA files: every kind and every layout, merged into weights; and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdlite.errors import RequestError, SourceCorrupt, SourceError, UnknownFamily
from sdlite.package import Package
from sdlite.weights.files import open_tensor_file, short_hash
from sdlite.weights.kinds import KINDS, Misfit, check
from sdlite.weights.lora import match, names_of
from sdlite.weights.merge import Use, merge, touched
from sdlite.weights.names import Names, split_key
from tests import families
from tests.adapters import (
    CONV,
    LINEAR,
    NORM,
    TEXT,
    Array,
    make_layer,
    make_package,
    write,
    write_torch,
)
from tests.tiny import Tiny

States = dict[str, dict[str, Array]]
LINEAR_KINDS = ["lora", "no alpha", "loha", "lokr", "lokr parts", "diff", "ia3 out", "ia3 in",
                "dora out", "dora in"]  # fmt: skip
CONV_KINDS = [*LINEAR_KINDS, "mid", "up kernel", "loha core", "lokr core"]


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> tuple[Package, States]:
    return make_package(tmp_path_factory.mktemp("sd1"), Tiny(), "sd1")


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> tuple[Package, States]:
    return make_package(tmp_path_factory.mktemp("sdxl"), families.SDXL, "sdxl")


def kohya(prefix: str, module: str, parameters: dict[str, Array]) -> dict[str, Array]:
    stem = prefix + module.replace(".", "_")
    return {f"{stem}.{name}": value for name, value in parameters.items()}


def opened(path: Path, package: Package) -> Use:
    return Use(match(open_tensor_file(path), package, names_of(package)), 1.0, 1.0)


def merged(package: Package, component: str, *uses: Use) -> dict[str, Array]:
    """Merged tensors as the state dict has them."""
    names = names_of(package)
    found = merge(package, component, uses, names)
    assert {n: v.nbytes for n, v in found.items()} == touched(package, component, uses, names)
    entries = package.manifest.weights[component].tensors
    for name, value in found.items():
        assert value.dtype == entries[name].dtype and value.shape == entries[name].shape
        assert value.flags.c_contiguous
    return {
        name: value.T if entries[name].layout == "transposed" else value
        for name, value in found.items()
    }


def close(found: Array, expected: Array) -> None:
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found / scale, expected / scale, atol=2e-6)


@pytest.mark.parametrize(
    ("kind", "module"),
    [*((kind, LINEAR) for kind in LINEAR_KINDS), *((kind, CONV) for kind in CONV_KINDS)],
)
def test_kinds(kind: str, module: str, sd1: tuple[Package, States], tmp_path: Path) -> None:
    package, states = sd1
    base = states["unet"][f"{module}.weight"]
    made = make_layer(kind, base)
    if made.bias is not None and f"{module}.bias" not in states["unet"]:
        del made.parameters["diff_b"]
    use = opened(write(tmp_path / "x.safetensors", kohya("lora_unet_", module, made.parameters)),
                 package)  # fmt: skip
    assert not use.adapter.notes
    found = merged(package, "unet", use)
    close(found[f"{module}.weight"], base + made.delta)
    others = found.keys() - {f"{module}.weight"}
    if "diff_b" in made.parameters and made.bias is not None:
        assert others == {f"{module}.bias"}
        close(found[f"{module}.bias"], states["unet"][f"{module}.bias"] + made.bias)
    else:
        assert not others
    half = Use(use.adapter, -0.5, 1.0)
    close(merged(package, "unet", half)[f"{module}.weight"], base - made.delta / 2)
    assert merged(package, "unet", Use(use.adapter, 0.0, 1.0)) == {}


def test_norms(sd1: tuple[Package, States], tmp_path: Path) -> None:
    package, states = sd1
    width = len(states["unet"][f"{NORM}.weight"])
    added = {"w_norm": np.linspace(-1, 1, width, dtype="f4"), "b_norm": np.ones(width, "f4")}
    use = opened(write(tmp_path / "x.safetensors", kohya("lora_unet_", NORM, added)), package)
    found = merged(package, "unet", use)
    close(found[f"{NORM}.weight"], states["unet"][f"{NORM}.weight"] + added["w_norm"])
    close(found[f"{NORM}.bias"], states["unet"][f"{NORM}.bias"] + 1)


LAYOUTS = {
    "kohya": ("lora_unet_{u}", "lora_te_{t}", "lora_down.weight", "lora_up.weight"),
    "kohya xl": ("lora_unet_{u}", "lora_te1_{t}", "lora_down.weight", "lora_up.weight"),
    "diffusers": ("unet.{d}", "text_encoder.{e}", "lora_A.weight", "lora_B.weight"),
    "diffusers old": ("unet.{d}", "text_encoder.{e}", "lora.down.weight", "lora.up.weight"),
    "peft": ("base_model.model.{d}", "base_model.model.{e}", "lora_A.weight", "lora_B.weight"),
    "peft named": ("unet.{d}", "text_encoder.{e}", "lora_A.style.weight", "lora_B.style.weight"),
    "ldm": ("lora_unet_{l}", "lora_te_{t}", "lora_down.weight", "lora_up.weight"),
    "ldm dotted": ("diffusion_model.{L}", "clip_l.transformer.{e}", "lora_A.weight",
                   "lora_B.weight"),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, sd1: tuple[Package, States], tmp_path: Path) -> None:
    package, states = sd1
    unet_form, text_form, down, up = LAYOUTS[layout]
    ldm = "input_blocks.1.1.transformer_blocks.0.attn2.to_k"
    tensors = {}
    expected = {}
    for component, module, form in (("unet", LINEAR, unet_form), ("text_encoder", TEXT, text_form)):
        base = states[component][f"{module}.weight"]
        made = make_layer("no alpha", base)
        flat = module.replace(".", "_")
        stem = form.format(u=flat, t=flat, d=module, e=module, l=ldm.replace(".", "_"), L=ldm)
        tensors[f"{stem}.{down}"] = made.parameters["lora_down.weight"]
        tensors[f"{stem}.{up}"] = made.parameters["lora_up.weight"]
        expected[component] = (f"{module}.weight", base + made.delta)
    path = tmp_path / "x.safetensors"
    for use in (
        opened(write(path, tensors), package),
        opened(write_torch(tmp_path / "x.pt", tensors), package),
    ):
        assert not use.adapter.unmatched
        for component, (name, value) in expected.items():
            found = merged(package, component, use)
            assert list(found) == [name]
            close(found[name], value)


def test_oldest_diffusers_layout(sd1: tuple[Package, States], tmp_path: Path) -> None:
    package, states = sd1
    start = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    made = make_layer("no alpha", states["unet"][f"{start}.to_out.0.weight"])
    down, up = made.parameters["lora_down.weight"], made.parameters["lora_up.weight"]
    text = "text_encoder.text_model.encoder.layers.0.self_attn.to_out_lora"
    query = make_layer("no alpha", states["text_encoder"][f"{TEXT}.weight"])
    tensors = {
        f"{start}.processor.to_out_lora.down.weight": down,
        f"{start}.processor.to_out_lora.up.weight": up,
        f"{text}.down.weight": query.parameters["lora_down.weight"],
        f"{text}.up.weight": query.parameters["lora_up.weight"],
        f"text_encoder.{TEXT}.lora_linear_layer.down.weight": query.parameters["lora_down.weight"],
        f"text_encoder.{TEXT}.lora_linear_layer.up.weight": query.parameters["lora_up.weight"],
    }
    use = opened(write_torch(tmp_path / "pytorch_lora_weights.bin", tensors), package)
    assert not use.adapter.unmatched
    found = merged(package, "unet", use)
    close(
        found[f"{start}.to_out.0.weight"], states["unet"][f"{start}.to_out.0.weight"] + made.delta
    )
    assert len(merged(package, "text_encoder", use)) == 2
    # The folder diffusers saves is as good as the file.
    assert opened(tmp_path, package).adapter.file.path.name == "pytorch_lora_weights.bin"


def test_both_text_encoders(sdxl: tuple[Package, States], tmp_path: Path) -> None:
    package, states = sdxl
    tensors, expected = {}, {}
    for prefix, component in (("lora_te1_", "text_encoder"), ("lora_te2_", "text_encoder_2")):
        made = make_layer("lora", states[component][f"{TEXT}.weight"])
        tensors |= kohya(prefix, TEXT, made.parameters)
        expected[component] = states[component][f"{TEXT}.weight"] + made.delta
    use = opened(write(tmp_path / "x.safetensors", tensors), package)
    for component, value in expected.items():
        close(merged(package, component, use)[f"{TEXT}.weight"], value)


def test_settings_of_peft_and_diffusers(sd1: tuple[Package, States], tmp_path: Path) -> None:
    package, states = sd1
    base = states["unet"][f"{LINEAR}.weight"]
    made = make_layer("no alpha", base)
    pair = {
        "lora_A.weight": made.parameters["lora_down.weight"],
        "lora_B.weight": made.parameters["lora_up.weight"],
    }
    for config, scale in (
        ({"r": 2, "lora_alpha": 8}, 4.0),
        ({"r": 2, "lora_alpha": 8, "use_rslora": True}, 8 / 2**0.5),
        ({"r": 2, "lora_alpha": 8, "alpha_pattern": {"attn2.to_k": 1}}, 0.5),
        ({"r": 2, "lora_alpha": "much"}, 1.0),
        ({}, 1.0),
    ):
        folder = tmp_path / str(scale) / str(len(config))
        folder.mkdir(parents=True)
        tensors = {f"base_model.model.{LINEAR}.{name}": value for name, value in pair.items()}
        write(folder / "adapter_model.safetensors", tensors)
        (folder / "adapter_config.json").write_text(json.dumps(config))
        close(merged(package, "unet", opened(folder, package))[f"{LINEAR}.weight"],
              base + made.delta * scale)  # fmt: skip
        inside = {"lora_adapter_metadata": json.dumps({f"unet.{k}": v for k, v in config.items()})}
        tensors = {f"unet.{LINEAR}.{name}": value for name, value in pair.items()}
        path = write(folder / "x.safetensors", tensors, inside)
        close(merged(package, "unet", opened(path, package))[f"{LINEAR}.weight"],
              base + made.delta * scale)  # fmt: skip
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(SourceCorrupt, match="is not JSON"):
        opened(folder, package)


def test_peft_ia3_and_dora(sd1: tuple[Package, States], tmp_path: Path) -> None:
    package, states = sd1
    base = states["unet"][f"{LINEAR}.weight"]
    factor = np.linspace(0.5, 2, len(base), dtype="f4")[:, None]
    dora = make_layer("dora out", states["unet"][f"{CONV}.weight"])
    tensors = {
        f"base_model.model.{LINEAR}.ia3_l": factor,
        f"base_model.model.{CONV}.lora_A.weight": dora.parameters["lora_down.weight"],
        f"base_model.model.{CONV}.lora_B.weight": dora.parameters["lora_up.weight"],
        f"base_model.model.{CONV}.alpha": dora.parameters["alpha"],
        # PEFT keeps magnitudes of convolutions as (1, out, 1, 1).
        f"base_model.model.{CONV}.lora_magnitude_vector": dora.parameters["dora_scale"].reshape(
            1, -1, 1, 1
        ),
    }
    found = merged(package, "unet", opened(write(tmp_path / "x.safetensors", tensors), package))
    close(found[f"{LINEAR}.weight"], base * factor)
    close(found[f"{CONV}.weight"], states["unet"][f"{CONV}.weight"] + dora.delta)


def test_several_at_once_by_block(sd1: tuple[Package, States], tmp_path: Path) -> None:
    package, states = sd1
    uses = []
    total = {name: states["unet"][f"{name}.weight"].copy() for name in (LINEAR, CONV)}
    for seed, strength in ((1, 0.75), (2, -0.5)):
        tensors = {}
        for module in total:
            made = make_layer("dora out" if seed == 2 else "lora",
                              states["unet"][f"{module}.weight"], seed=seed)  # fmt: skip
            tensors |= kohya("lora_unet_", module, made.parameters)
            factor = 0.25 if seed == 1 else 1.0
            total[module] = total[module] + strength * factor * made.delta
        path = write(tmp_path / f"{seed}.safetensors", tensors)
        blocks = {"IN01": 0.25, "OUT11": 7.0} if seed == 1 else {}
        uses.append(Use(opened(path, package).adapter, strength, 0.0, blocks))
    found = merged(package, "unet", *uses)
    for module, value in total.items():
        close(found[f"{module}.weight"], value)


def test_stores_half_precision(tmp_path: Path) -> None:
    package, states = make_package(tmp_path / "p", Tiny(), "sd1", "float16")
    base = states["unet"][f"{LINEAR}.weight"]
    made = make_layer("lora", base)
    use = opened(write(tmp_path / "x.safetensors", kohya("lora_unet_", LINEAR, made.parameters)),
                 package)  # fmt: skip
    found = merged(package, "unet", use)[f"{LINEAR}.weight"]
    expected = (base + made.delta).astype(np.float16)
    assert np.abs(found.astype("f4") - expected.astype("f4")).max() <= 2**-10
    with pytest.raises(SourceError, match="beyond float16; lower the strength"):
        merged(package, "unet", Use(use.adapter, 1e6, 1.0))


def test_keeps_only_some_ranks(sd1: tuple[Package, States], tmp_path: Path) -> None:
    package, states = sd1
    base = states["unet"][f"{LINEAR}.weight"]
    made = make_layer("no alpha", base)
    use = opened(write(tmp_path / "x.safetensors", kohya("lora_unet_", LINEAR, made.parameters)),
                 package)  # fmt: skip
    first = made.parameters["lora_up.weight"][:, :1] @ made.parameters["lora_down.weight"][:1]
    found = merged(package, "unet", Use(use.adapter, 1.0, 1.0, rank=1))
    close(found[f"{LINEAR}.weight"], base + first)


def test_names_what_matches_nothing(sd1: tuple[Package, States], tmp_path: Path) -> None:
    package, states = sd1
    made = make_layer("lora", states["unet"][f"{LINEAR}.weight"])
    tensors = kohya("lora_unet_", LINEAR, made.parameters)
    tensors |= {"lora_unet_nowhere.lora_down.weight": np.ones((2, 3), "f4")}
    tensors |= {"lora_unet_nowhere.lora_up.weight": np.ones((3, 2), "f4"), "odd": np.ones(1, "f4")}
    adapter = opened(write(tmp_path / "x.safetensors", tensors), package).adapter
    assert adapter.unmatched == (
        "lora_unet_nowhere.lora_down.weight", "lora_unet_nowhere.lora_up.weight", "odd"
    )  # fmt: skip
    (note,) = adapter.notes
    assert note.startswith("x.safetensors: 3 of 6 tensors belong to no layer of this model")
    assert "lora_unet_nowhere.lora_down.weight" in note and "odd" in note


def refusal(tensors: dict[str, Array], package: Package, folder: Path, **meta: str) -> Exception:
    path = write(folder / "x.safetensors", tensors, meta)
    with pytest.raises((SourceError, RequestError)) as caught:
        merged(package, "unet", opened(path, package))
    assert "\n" not in str(caught.value)
    return caught.value


def test_refuses(sd1: tuple[Package, States], sdxl: tuple[Package, States], tmp_path: Path) -> None:
    package, states = sd1
    good = kohya("lora_unet_", LINEAR, make_layer("lora", states["unet"][f"{LINEAR}.weight"])
                 .parameters)  # fmt: skip
    down, up = (key for key in good if not key.endswith("alpha"))

    wide = {down: np.ones((2, 2048), "f4"), up: np.ones((8, 2), "f4")}
    error = refusal(wide, package, tmp_path)
    assert isinstance(error, RequestError)
    assert "made for Stable Diffusion XL, and tiny is sd1" in str(error)
    error = refusal({**good, down: np.ones((3, 16), "f4")}, package, tmp_path)
    assert isinstance(error, SourceCorrupt) and "down has rank 3, up has rank 2" in str(error)
    error = refusal({**good, up: np.full_like(good[up], np.nan)}, package, tmp_path)
    assert isinstance(error, SourceCorrupt) and "not finite" in str(error)
    error = refusal({down: good[down]}, package, tmp_path)
    assert isinstance(error, SourceCorrupt) and "has down without up" in str(error)
    error = refusal({**good, down: good[down].astype(np.int64)}, package, tmp_path)
    assert isinstance(error, SourceCorrupt) and "holds int64, not weights" in str(error)
    error = refusal({**good, down.replace("lora_down.weight", "alpha"): np.ones(3, "f4")},
                    package, tmp_path)  # fmt: skip
    assert isinstance(error, SourceCorrupt) and "alpha has 3 numbers" in str(error)
    error = refusal({"emb_params": np.ones((2, 16), "f4")}, package, tmp_path)
    assert isinstance(error, UnknownFamily) and "a textual inversion" in str(error)
    error = refusal({"one.two": np.ones(2, "f4")}, package, tmp_path)
    assert isinstance(error, UnknownFamily) and "no LoRA of a known layout" in str(error)
    stem = "lora_unet_double_blocks_0_img_attn_qkv"
    flux = {f"{stem}.lora_down.weight": np.ones((2, 4), "f4")}
    flux[f"{stem}.lora_up.weight"] = np.ones((4, 2), "f4")
    error = refusal(flux, package, tmp_path)
    assert isinstance(error, RequestError) and "made for FLUX" in str(error)
    with pytest.raises(SourceError, match=r"unknown kind of file '\.txt'"):
        (tmp_path / "x.txt").touch()
        open_tensor_file(tmp_path / "x.txt")
    with pytest.raises(SourceError, match="does not exist"):
        open_tensor_file(tmp_path / "no.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"has none of adapter_model\.safetensors"):
        open_tensor_file(tmp_path / "empty")


def test_a_base_that_is_missing_is_named(sd1: tuple[Package, States], tmp_path: Path) -> None:
    """The layer, the component or the weights a LoRA would be added to are not there."""
    package, states = sd1
    weights = package.manifest.weights
    made = make_layer("lora", states["unet"][f"{LINEAR}.weight"]).parameters
    path = write(tmp_path / "x.safetensors", kohya("lora_unet_", LINEAR, made))

    def without(component: str, *left_out: str) -> Package:
        kept = dict(weights)
        if left_out:
            held = {n: e for n, e in kept[component].tensors.items() if n not in left_out}
            kept[component] = replace(kept[component], tensors=held)
        else:
            del kept[component]
        return Package(package.root, replace(package.manifest, weights=kept))

    # A folder of another program, whose weights have no names of their own.
    with pytest.raises(RequestError, match=r"tiny says nothing about its weights, .*sdlite export"):
        opened(path, without("unet"))
    # A model that was made smaller: of all its layers none is there, or only some.
    pruned = without("unet", f"{LINEAR}.weight")
    with pytest.raises(RequestError, match=r"none of its layers is there, e\.g\. lora_unet"):
        opened(path, pruned)
    other = LINEAR.replace("to_k", "to_v")
    both = kohya("lora_unet_", LINEAR, made) | kohya("lora_unet_", other, made)
    use = opened(write(tmp_path / "both.safetensors", both), pruned)
    assert [layer.target.module for layer in use.adapter.layers] == [other]
    assert "3 of 6 tensors belong to no layer of this model" in use.adapter.notes[0]
    # A second text encoder that Stable Diffusion 1 does not have.
    text = make_layer("lora", states["text_encoder"][f"{TEXT}.weight"]).parameters
    second = write(tmp_path / "te2.safetensors", kohya("lora_te2_", TEXT, text))
    with pytest.raises(RequestError, match="and tiny is sd1: none of its layers is there"):
        opened(second, package)


def test_every_layer_has_its_other_names(sdxl: tuple[Package, States]) -> None:
    """The exporter's table of names, written apart from ours, agrees."""
    from sdlite_export.source.layout import unet_slots

    for tiny in (Tiny(), families.SD2, families.SDXL, families.REFINER):
        slots = list(unet_slots(tiny.unet))
        names = Names({"unet": [slot.name for slot in slots]})
        for slot in slots:
            module = slot.name.rpartition(".")[0]
            ldm = slot.ldm.rpartition(".")[0]
            for stem in (f"diffusion_model.{ldm}", f"lora_unet_{ldm.replace('.', '_')}",
                         f"unet.{module}", f"lora_unet_{module.replace('.', '_')}"):  # fmt: skip
                target = names.find(stem)
                assert target is not None and target.module == module, stem


def test_blocks() -> None:
    from sdlite_export.source.layout import unet_slots

    names = Names({"unet": [slot.name for slot in unet_slots(families.SDXL.unet)]})
    blocks = {}
    for stem in ("conv_in", "time_embedding.linear_1", "down_blocks.1.resnets.0.conv1",
                 "mid_block.resnets.0.conv1", "up_blocks.2.resnets.2.conv1"):  # fmt: skip
        target = names.find(f"unet.{stem}")
        assert target is not None
        blocks[stem] = names.block(target)
    assert list(blocks.values()) == ["IN00", "BASE", "IN04", "M00", "OUT08"]


def test_short_hashes(tmp_path: Path) -> None:
    import hashlib

    tensors = {"x": np.arange(6, dtype="f4")}
    one = write(tmp_path / "one.safetensors", tensors, {"note": "one"})
    two = write(tmp_path / "two.safetensors", tensors, {"note": "another"})
    data = hashlib.sha256(tensors["x"].tobytes()).hexdigest()[:12]
    assert short_hash(one, whole=False) == short_hash(two, whole=False) == data
    assert short_hash(one, whole=True) == hashlib.sha256(one.read_bytes()).hexdigest()[:12]


shapes = st.lists(st.integers(0, 9), max_size=5).map(tuple)
parameters = st.sampled_from(
    sorted({name for kind in KINDS for needs in kind.needs for name in (*needs, *kind.also)})
)


@given(st.sampled_from(KINDS), st.data(), st.dictionaries(parameters, shapes, max_size=8))
def test_any_shapes_are_judged(kind: Any, data: st.DataObject, found: dict[str, Any]) -> None:
    for name in data.draw(st.sampled_from(kind.needs)):
        found.setdefault(name, data.draw(shapes))
    try:
        assert check(kind, found, (4, 8)) in (True, False)
    except Misfit as error:
        assert str(error)


@given(st.text(max_size=60))
def test_any_key_is_split_or_not(key: str) -> None:
    found = split_key(key)
    assert found is None or all(found)


def test_requests_with_loras_are_saved_whole() -> None:
    from sdlite import schema
    from sdlite.loras import LoraUse
    from sdlite.types import Request

    use = LoraUse("ink", 0.5, 0.0, Path("ink.safetensors"), (("IN01", 0.25), ("M00", 1.0)), 4)
    request = Request("x", loras=(use,), embeddings=(Path("a.pt"),), guidance_interval=(0.5, 2.0))
    assert schema.decode(Request, json.loads(json.dumps(schema.encode(request)))) == request
    broken = schema.encode(request)
    broken["loras"][0]["blocks"] = [["IN01"]]
    with pytest.raises(schema.SchemaError, match="is not a list of 2"):
        schema.decode(Request, broken)
