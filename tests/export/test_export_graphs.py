"""Graph files: valid ONNX, the promised ports, and all variants giving the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from sdlite_export.emit.targets import target_of
from sdlite_export.export import export_package

from sdlite import registry
from sdlite.chain import open_chain
from sdlite.engine import Artifact, LoadOptions
from sdlite.package import Package
from sdlite.types import Array

onnxruntime = pytest.importorskip("onnxruntime")

SIZES = ((1, 6, 6), (2, 5, 7), (3, 9, 4), (1, 1, 1))
"""Batch, height and width of latents: also odd ones, which are rounded up on the way down."""


def run(
    package: Package,
    component: str,
    variant: str,
    inputs: Mapping[str, Array],
    mode: str = "normal",
) -> dict[str, Array]:
    runtime = registry.get("onnxruntime")
    device = registry.probe("onnxruntime")[0]
    options = LoadOptions(threads=1, memory_mode=mode)
    artifacts = package.find(component, variant)
    session = open_chain(runtime, artifacts, package.root, device, options)
    try:
        return session.run({spec.name: inputs[spec.name] for spec in session.inputs})
    finally:
        session.close()


def latents(batch: int, height: int, width: int) -> Array:
    return np.random.default_rng(1).standard_normal((batch, 4, height, width), dtype=np.float32)


def unet_inputs(batch: int, height: int, width: int, tokens: int = 77) -> dict[str, Array]:
    rng = np.random.default_rng(2)
    return {
        "sample": latents(batch, height, width),
        "timestep": np.linspace(3, 981, batch, dtype=np.float32),
        "encoder_hidden_states": rng.standard_normal((batch, tokens, 16), dtype=np.float32),
    }


def ids(package: Package, batch: int, tokens: int = 77) -> Array:
    tokenizer = package.manifest.tokenizers[0]
    values = np.random.default_rng(3).integers(0, tokenizer.bos, (batch, tokens))
    values[:, 0] = tokenizer.bos
    values[:, 5:] = tokenizer.eos
    return values


def all_artifacts(package: Package) -> list[Artifact]:
    return list(package.manifest.artifacts)


def test_every_graph_is_valid_onnx(tiny_package: Package) -> None:
    for artifact in all_artifacts(tiny_package):
        path = str(tiny_package.path(artifact.graph))
        # Shape inference knows only ONNX's own operators.
        onnx.checker.check_model(path, full_check=not artifact.domains)


def test_graphs_hold_no_weights_and_say_what_they_use(tiny_package: Package) -> None:
    for artifact in all_artifacts(tiny_package):
        model = onnx.load(tiny_package.path(artifact.graph), load_external_data=False)
        target = target_of(artifact.component, artifact.variant)
        imports = {item.domain: item.version for item in model.opset_import}
        assert imports[""] == artifact.opset == target.opset
        assert set(imports) - {""} == set(artifact.domains)
        assert set(artifact.domains) <= set(target.domains)
        assert artifact.graph_size < 150_000
        names = [node.name for node in model.graph.node]
        assert len(set(names)) == len(names)
        entries = tiny_package.weight_file(artifact.component).tensors
        for tensor in model.graph.initializer:
            if tensor.name.startswith("const/"):
                assert len(tensor.raw_data) <= 1024
                continue
            where = {item.key: item.value for item in tensor.external_data}
            entry = entries[tensor.name]
            assert where["location"] == "weights.bin"
            assert (int(where["offset"]), int(where["length"])) == (entry.offset, entry.size)
            assert tuple(tensor.dims) == entry.shape


def test_plain_graphs_use_standard_operators_only(tiny_package: Package) -> None:
    for artifact in all_artifacts(tiny_package):
        if artifact.variant in ("plain", "embeddings"):
            assert artifact.domains == ()


PORTS = {
    ("text_encoder", "plain"): (
        ["input_ids"],
        ["last_hidden_state", "clip_skip_2", "pooler_output"],
    ),
    ("text_encoder", "embeddings"): (
        ["input_ids", "inputs_embeds"],
        ["last_hidden_state", "clip_skip_2", "pooler_output"],
    ),
    ("unet", "plain"): (["sample", "timestep", "encoder_hidden_states"], ["out_sample"]),
    ("unet", "fused"): (["sample", "timestep", "encoder_hidden_states"], ["out_sample"]),
    ("vae_decoder", "plain"): (["latent_sample"], ["sample"]),
    ("vae_decoder", "fused"): (["latent_sample"], ["sample"]),
    ("vae_encoder", "plain"): (["sample"], ["latent_parameters"]),
    ("vae_encoder", "fused"): (["sample"], ["latent_parameters"]),
}


@pytest.mark.parametrize("component, variant", PORTS)
def test_ports(tiny_package: Package, component: str, variant: str) -> None:
    (artifact,) = tiny_package.find(component, variant)
    inputs, outputs = PORTS[component, variant]
    assert [spec.name for spec in artifact.inputs] == inputs
    assert [spec.name for spec in artifact.outputs] == outputs
    model = onnx.load(tiny_package.path(artifact.graph), load_external_data=False)
    for spec, info in zip(
        (*artifact.inputs, *artifact.outputs),
        (*model.graph.input, *model.graph.output),
        strict=True,
    ):
        dims = info.type.tensor_type.shape.dim
        assert tuple(dim.dim_param or dim.dim_value for dim in dims) == spec.shape


def test_free_dimensions_have_the_promised_names(tiny_package: Package) -> None:
    (unet,) = tiny_package.find("unet", "fused")
    shapes = {spec.name: spec.shape for spec in (*unet.inputs, *unet.outputs)}
    assert shapes == {
        "sample": ("batch", 4, "height", "width"),
        "timestep": ("batch",),
        "encoder_hidden_states": ("batch", "tokens", 16),
        "out_sample": ("batch", 4, "height", "width"),
    }
    (decoder,) = tiny_package.find("vae_decoder", "fused")
    assert decoder.outputs[0].shape == ("batch", 3, "image_height", "image_width")
    (encoder,) = tiny_package.find("vae_encoder", "fused")
    assert encoder.inputs[0].shape == ("batch", 3, "image_height", "image_width")
    assert encoder.outputs[0].shape == ("batch", 8, "height", "width")


@pytest.mark.parametrize("batch, height, width", SIZES)
def test_unet_variants_agree(tiny_package: Package, batch: int, height: int, width: int) -> None:
    inputs = unet_inputs(batch, height, width)
    plain = run(tiny_package, "unet", "plain", inputs)["out_sample"]
    assert plain.shape == (batch, 4, height, width)
    fused = run(tiny_package, "unet", "fused", inputs)["out_sample"]
    np.testing.assert_allclose(fused, plain, atol=2e-5)
    for mode in ("normal", "mapped"):
        chain = run(tiny_package, "unet", "segment", inputs, mode)
        assert list(chain) == ["out_sample"]
        np.testing.assert_allclose(chain["out_sample"], fused, atol=1e-5)


def test_unet_takes_any_number_of_tokens(tiny_package: Package) -> None:
    for tokens in (1, 154):
        inputs = unet_inputs(1, 4, 4, tokens)
        plain = run(tiny_package, "unet", "plain", inputs)["out_sample"]
        fused = run(tiny_package, "unet", "fused", inputs)["out_sample"]
        np.testing.assert_allclose(fused, plain, atol=2e-5)


def test_items_of_a_batch_do_not_touch(tiny_package: Package) -> None:
    inputs = unet_inputs(3, 5, 6)
    together = run(tiny_package, "unet", "fused", inputs)["out_sample"]
    alone = run(tiny_package, "unet", "fused", {k: v[1:2] for k, v in inputs.items()})
    np.testing.assert_allclose(together[1:2], alone["out_sample"], atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.01


@pytest.mark.parametrize("batch, height, width", SIZES)
def test_vae_variants_agree(tiny_package: Package, batch: int, height: int, width: int) -> None:
    z = {"latent_sample": latents(batch, height, width)}
    plain = run(tiny_package, "vae_decoder", "plain", z)["sample"]
    assert plain.shape == (batch, 3, 8 * height, 8 * width)
    for variant in ("fused", "segment"):
        other = run(tiny_package, "vae_decoder", variant, z)["sample"]
        assert np.abs(other - plain).max() < 1e-4 * plain.std()
    picture = {"sample": np.clip(plain, -1, 1)}
    code = run(tiny_package, "vae_encoder", "plain", picture)["latent_parameters"]
    assert code.shape == (batch, 8, height, width)
    fused = run(tiny_package, "vae_encoder", "fused", picture)["latent_parameters"]
    # With one latent cell a group may have next to no spread to divide by.
    assert np.abs(fused - code).max() < 1e-4 * max(1.0, code.std())


def test_text_encoder(tiny_package: Package) -> None:
    tokens = ids(tiny_package, 2)
    plain = run(tiny_package, "text_encoder", "plain", {"input_ids": tokens})
    states = plain["last_hidden_state"]
    assert states.shape == plain["clip_skip_2"].shape == (2, 77, 16)
    assert np.abs(plain["clip_skip_2"] - states).max() > 0.1
    # The pooled output is the state at the first end token.
    np.testing.assert_array_equal(plain["pooler_output"], states[:, 5])
    changed = tokens.copy()
    changed[:, 40] = 1
    later = run(tiny_package, "text_encoder", "plain", {"input_ids": changed})
    np.testing.assert_allclose(later["last_hidden_state"][:, :40], states[:, :40], atol=1e-6)
    assert np.abs(later["last_hidden_state"][:, 40] - states[:, 40]).max() > 0.01


def test_text_encoder_takes_fewer_tokens(tiny_package: Package) -> None:
    tokens = ids(tiny_package, 1)
    whole = run(tiny_package, "text_encoder", "plain", {"input_ids": tokens})
    some = run(tiny_package, "text_encoder", "plain", {"input_ids": tokens[:, :9]})
    np.testing.assert_allclose(
        some["last_hidden_state"], whole["last_hidden_state"][:, :9], atol=1e-6
    )


def test_embeddings_replace_the_table(tiny_package: Package) -> None:
    tokens = ids(tiny_package, 2)
    entry = tiny_package.weight_file("text_encoder").tensors[
        "text_model.embeddings.token_embedding.weight"
    ]
    path = tiny_package.path("text_encoder/weights.bin")
    table = np.fromfile(path, entry.dtype, entry.size // 2, offset=entry.offset)
    table = table.reshape(entry.shape).astype(np.float32)
    plain = run(tiny_package, "text_encoder", "plain", {"input_ids": tokens})
    given = run(
        tiny_package,
        "text_encoder",
        "embeddings",
        {"input_ids": tokens, "inputs_embeds": table[tokens]},
    )
    for name, value in plain.items():
        np.testing.assert_array_equal(given[name], value)


def test_segments_carry_what_later_ones_need(tiny_package: Package) -> None:
    chain = tiny_package.find("unet", "segment")
    assert len(chain) >= 8
    assert [artifact.index for artifact in chain] == list(range(len(chain)))
    known = {"sample", "timestep", "encoder_hidden_states"}
    used: set[str] = set()
    for artifact in chain:
        names = {spec.name for spec in artifact.inputs}
        assert names <= known
        used |= names
        known |= {spec.name for spec in artifact.outputs}
    # Nothing crosses a cut for nobody.
    assert known - used == {"out_sample"}
    assert [spec.name for spec in chain[-1].outputs] == ["out_sample"]


def test_half_precision_is_close_to_single(
    tiny_package: Package, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    export_package(tiny_checkpoint, tmp_path / "fp32", precision="fp32")
    full = Package.open(tmp_path / "fp32")
    inputs = unet_inputs(2, 5, 7)
    single = run(full, "unet", "fused", inputs)["out_sample"]
    half = run(tiny_package, "unet", "fused", inputs)["out_sample"]
    assert 0 < np.abs(half - single).max() < 0.02 * single.std()
    assert len(full.find("unet", "segment")) == len(tiny_package.find("unet", "segment"))
    chain = run(full, "unet", "segment", inputs)["out_sample"]
    np.testing.assert_allclose(chain, single, atol=1e-5)
