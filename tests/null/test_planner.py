"""The planner as a table: machine, budget and wishes against the plan that follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from sdlite.engine import Artifact, FileEntry, TensorSpec
from sdlite.errors import NoPlan, RequestError, UnknownName
from sdlite.footprint import GRAPH_BYTES, HOLES
from sdlite.manifest import (
    Defaults,
    LatentSpace,
    Licence,
    Manifest,
    NoiseTable,
    Source,
    WeightFile,
)
from sdlite.package import Package
from sdlite.planner import Budget, Plan, Preferences, RequestShape, plan
from sdlite.types import Device

GB = 10**9


def artifact(component: str, variant: str, index: int = 0, activations: int = 0) -> Artifact:
    return Artifact(
        component=component,
        format="onnx",
        variant=variant,
        precision="fp16",
        graph=f"{component}/{variant}-{index}.onnx",
        graph_size=1,
        graph_sha256="",
        inputs=(),
        outputs=(),
        weights=f"{component}/weights.bin",
        index=index,
        activation_bytes=activations,
    )


def weights(component: str, size: int) -> WeightFile:
    return WeightFile(FileEntry(f"{component}/weights.bin", size, ""), "fp16", {})


@pytest.fixture
def sd15() -> Package:
    """Sizes of Stable Diffusion 1.5 in fp16; nothing on disk is needed to plan."""
    unet = 450_000_000
    return Package(
        Path("nowhere"),
        Manifest(
            version=1,
            reader=1,
            name="sd15",
            family="sd1",
            prediction="epsilon",
            noise=NoiseTable("scaled_linear", 0.00085, 0.012, 1000),
            latent=LatentSpace(4, 8, 0.18215),
            tokenizers=(),
            defaults=Defaults(512, 512),
            licence=Licence("unknown"),
            source=Source("single-file", "sd15", ""),
            exporter="0",
            artifacts=(
                artifact("text_encoder", "plain"),
                artifact("unet", "plain", activations=2 * unet),
                artifact("unet", "fused", activations=unet),
                artifact("unet", "segment", 0, activations=unet // 2),
                artifact("unet", "segment", 1, activations=unet // 3),
                artifact("vae_decoder", "plain"),
                artifact("vae_decoder", "segment", 0, activations=unet // 2),
            ),
            weights={
                "text_encoder": weights("text_encoder", 246_000_000),
                "unet": weights("unet", 1_719_000_000),
                "vae_decoder": weights("vae_decoder", 99_000_000),
            },
        ),
    )


SHAPE = RequestShape(512, 512, 1, 20, True)


def cpu(free: int | None) -> list[Device]:
    return [Device("onnxruntime", "cpu", "CPU", free)]


def make(
    package: Package,
    free: int | None = None,
    limit: int | None = None,
    shape: RequestShape = SHAPE,
    **wishes: object,
) -> Plan:
    return plan(package, shape, cpu(free), Budget(limit), Preferences(**wishes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("free", "limit", "mode", "batch", "resident", "variant"),
    [
        (32 * GB, None, "normal", 2, True, "fused"),
        (9 * GB, None, "normal", 2, False, "fused"),
        (None, None, "normal", 2, True, "fused"),
        (5 * GB, None, "mapped", 1, False, "segment"),
        (32 * GB, 10 * GB, "normal", 2, True, "fused"),
        (32 * GB, 7 * GB, "normal", 2, False, "fused"),
        (32 * GB, 6_600_000_000, "normal", 1, False, "fused"),
        (32 * GB, 1 * GB, "mapped", 1, False, "segment"),
        (32 * GB, 480_000_000, "mapped", 1, False, "segment"),
    ],
)
def test_machines(
    sd15: Package,
    free: int | None,
    limit: int | None,
    mode: str,
    batch: int,
    resident: bool,
    variant: str,
) -> None:
    made = make(sd15, free, limit)
    assert (made.memory_mode, made.call_batch, made.resident) == (mode, batch, resident)
    assert {a.variant for a in made.placement("unet").artifacts} == {variant}
    if limit is not None:
        counted = made.private_bytes if mode == "mapped" else made.peak_bytes
        assert counted <= limit
    assert made.reasons
    assert made.memory_mode in made.explain()


def test_is_pure(sd15: Package) -> None:
    assert make(sd15, 8 * GB) == make(sd15, 8 * GB)
    assert make(sd15, 8 * GB) != make(sd15, 8 * GB, 1 * GB)


def test_a_chain_keeps_its_order_and_counts_its_largest_part(sd15: Package) -> None:
    unet = make(sd15, limit=GB).placement("unet")
    assert [a.index for a in unet.artifacts] == [0, 1]
    assert unet.private_bytes == 225_000_000 * HOLES + len(unet.artifacts) * GRAPH_BYTES
    assert unet.mapped_bytes == 1_719_000_000


def test_widened_weights_count_where_they_are_widened_in_every_call(sd15: Package) -> None:
    artifacts = tuple(replace(a, widened_bytes=10**8) for a in sd15.manifest.artifacts)
    wide = Package(sd15.root, replace(sd15.manifest, artifacts=artifacts))
    for mode, more in (("mapped", 10**8 * HOLES), ("normal", 0)):
        before = make(sd15, memory_mode=mode).placement("unet").private_bytes
        assert make(wide, memory_mode=mode).placement("unet").private_bytes == before + more


def test_memory_grows_with_the_picture(sd15: Package) -> None:
    small = make(sd15, shape=RequestShape(256, 256, 1, 20, True))
    large = make(sd15, shape=RequestShape(1024, 1024, 1, 20, True))
    assert small.private_bytes < make(sd15).private_bytes < large.private_bytes


def test_a_budget_that_cannot_be_kept_says_the_least(sd15: Package) -> None:
    with pytest.raises(NoPlan, match=r"--max-memory 100 MB is less than the \d+ MB that 512x512"):
        make(sd15, limit=100_000_000)


def test_a_small_machine_without_a_budget_still_tries(sd15: Package) -> None:
    made = make(sd15, free=2 * GB)
    assert made.memory_mode == "mapped"
    least = make(sd15, limit=480_000_000).private_bytes
    assert "is more" in make(sd15, free=int(least * 1.1)).reasons[0]


def test_a_picture_that_cannot_fit_is_refused_before_it_starts(sd15: Package) -> None:
    with pytest.raises(NoPlan, match=r"4096x4096 needs about .* ask for a smaller picture"):
        make(sd15, free=8 * GB, shape=RequestShape(4096, 4096, 1, 20, True))
    assert make(sd15, 8 * GB, 99 * GB, RequestShape(4096, 4096, 1, 20, True)).shape.width == 4096


def test_attention_that_is_not_fused_counts_its_scores(sd15: Package) -> None:
    unknown = tuple(
        replace(a, activation_bytes=0) for a in sd15.manifest.artifacts if a.variant == "plain"
    )
    foreign = Package(sd15.root, replace(sd15.manifest, artifacts=unknown))
    needed = make(foreign, memory_mode="mapped").placement("unet").private_bytes
    assert needed > 8 * 4096**2 * 4
    ir = tuple(replace(a, format="openvino") for a in unknown if a.component == "unet")
    others = tuple(a for a in unknown if a.component != "unet")
    mixed = Package(sd15.root, replace(sd15.manifest, artifacts=(*ir, *others)))
    held = choose(mixed, runtime="openvino").placement("unet").private_bytes
    assert held < choose(foreign, runtime="openvino").placement("unet").private_bytes - 10**9


def test_wishes_are_kept(sd15: Package) -> None:
    made = make(sd15, 32 * GB, memory_mode="mapped", threads=3)
    assert made.memory_mode == "mapped"
    assert made.placement("unet").options.threads == 3
    with pytest.raises(NoPlan):
        make(sd15, limit=1 * GB, memory_mode="normal")


def test_without_guidance_one_item_a_call(sd15: Package) -> None:
    assert make(sd15, 32 * GB, shape=RequestShape(512, 512, 1, 20, False)).call_batch == 1
    assert make(sd15, 32 * GB, shape=RequestShape(512, 512, 3, 20, True)).call_batch == 6


@pytest.mark.parametrize(
    ("wishes", "error", "message"),
    [
        ({"runtime": "onnxrutime"}, UnknownName, "Did you mean 'onnxruntime'"),
        ({"device": "cpuu"}, UnknownName, "Did you mean 'cpu'"),
        ({"precision": "fp15"}, UnknownName, "Did you mean 'fp16'"),
        ({"precision": "bf16"}, RequestError, "nothing here computes in bf16: onnxruntime cpu in"),
        ({"memory_mode": "maped"}, UnknownName, "Did you mean 'mapped'"),
        ({"threads": 0}, RequestError, "threads 0"),
    ],
)
def test_wishes_that_cannot_be(
    sd15: Package, wishes: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make(sd15, 32 * GB, **wishes)


OPENVINO = Device("openvino", "cpu", "CPU", 32 * GB, ("bf16", "fp32"), fixed_sizes=True)
ONNXRUNTIME = Device("onnxruntime", "cpu", "CPU", 32 * GB)
GPU = Device("openvino", "gpu", "GPU", 4 * GB, ("fp16", "fp32"))
BOTH = (ONNXRUNTIME, OPENVINO, GPU)


def choose(
    package: Package, limit: int | None = None, devices: Sequence[Device] = BOTH, **wishes: object
) -> Plan:
    return plan(package, SHAPE, devices, Budget(limit), Preferences(**wishes))  # type: ignore[arg-type]


def test_steps_without_guidance_take_half_where_sizes_are_fixed(sd15: Package) -> None:
    partly = replace(SHAPE, guided=True, partly=True)
    budget, wishes = Budget(), Preferences()
    assert plan(sd15, replace(partly, partly=False), BOTH, budget, wishes).call_batch == 2
    made = plan(sd15, partly, BOTH, budget, wishes)
    assert (made.call_batch, made.resident) == (1, True)
    told = "prompt and negative prompt in separate calls, for steps without guidance"
    assert told in made.reasons
    assert made.placement("unet").options.dimensions["batch"] == 1
    several = plan(sd15, replace(partly, images=3), BOTH, budget, wishes)
    assert several.call_batch == 3
    assert plan(sd15, partly, (ONNXRUNTIME,), budget, wishes).call_batch == 2


@pytest.mark.parametrize(
    ("limit", "wishes", "runtime", "device", "mode", "precision"),
    [
        (None, {}, "openvino", "cpu", "normal", "bf16"),
        (None, {"precision": "fp32"}, "openvino", "cpu", "normal", "fp32"),
        (None, {"runtime": "onnxruntime"}, "onnxruntime", "cpu", "normal", None),
        (None, {"device": "gpu"}, "openvino", "gpu", "normal", "fp16"),
        (None, {"precision": "fp16"}, "openvino", "gpu", "normal", "fp16"),
        (None, {"memory_mode": "mapped"}, "onnxruntime", "cpu", "mapped", None),
        (5 * GB, {}, "openvino", "cpu", "normal", "bf16"),
        (1 * GB, {}, "onnxruntime", "cpu", "mapped", None),
    ],
)
def test_engines(
    sd15: Package,
    limit: int | None,
    wishes: dict[str, object],
    runtime: str,
    device: str,
    mode: str,
    precision: str | None,
) -> None:
    made = choose(sd15, limit, **wishes)
    unet = made.placement("unet")
    found = (unet.device.runtime, unet.device.name, made.memory_mode, unet.options.precision)
    assert found == (runtime, device, mode, precision)
    if limit == 1 * GB:
        assert "not openvino, because it would need more memory" in made.reasons
    elif not wishes:
        assert any(reason.startswith("openvino, because") for reason in made.reasons)


def test_openvino_gets_what_makes_it_fast(sd15: Package) -> None:
    made = choose(sd15)
    assert made.placement("unet").options.dimensions == {"batch": 2, "height": 64, "width": 64}
    assert made.placement("vae_decoder").options.dimensions["batch"] == 1
    text = made.placement("text_encoder").options
    assert (text.precision, text.dimensions) == ("fp32", {})
    assert {a.variant for a in made.placement("unet").artifacts} == {"plain"}
    assert "computed in bf16" in made.explain()
    wide = choose(sd15, precision="fp32").placement("unet")
    assert wide.private_bytes > 1.8 * made.placement("unet").private_bytes
    folder = Path("cache")
    options = choose(sd15, cache=folder, cache_limit=5).placement("unet").options
    assert (options.cache, options.cache_limit) == (folder, 5)


def test_openvino_is_not_chosen_where_it_was_not_measured(sd15: Package) -> None:
    arm = replace(OPENVINO, precisions=("fp16", "fp32"))
    for devices in ((ONNXRUNTIME, arm), (ONNXRUNTIME, GPU)):
        assert choose(sd15, devices=devices).placement("unet").device == ONNXRUNTIME
    small = Package(
        sd15.root,
        replace(
            sd15.manifest, weights={**sd15.manifest.weights, "unet": weights("unet", 13 << 20)}
        ),
    )
    assert choose(small).placement("unet").device == ONNXRUNTIME
    assert choose(small, runtime="openvino").placement("unet").device == OPENVINO


CUDA = Device("onnxruntime", "cuda", "GPU", 8 * GB, own_memory=True)
DML = Device("onnxruntime", "dml", "GPU", None, fixed_sizes=True, own_memory=True, opset=20)


def test_a_gpu_is_used_where_there_is_one_and_its_own_memory_counts(sd15: Package) -> None:
    devices = (ONNXRUNTIME, CUDA)
    assert choose(sd15, devices=devices).placement("unet").device == CUDA
    made = choose(sd15, devices=devices, device="cuda", limit=GB)
    assert [p.device for p in made.placements] == [ONNXRUNTIME, CUDA, CUDA]
    assert made.reasons[0].startswith("8.00 GB of memory of cuda is free")
    limited = plan(sd15, SHAPE, devices, Budget(max_vram=7 * GB), Preferences(device="cuda"))
    assert limited.placement("unet").options.device_memory == 7 * GB
    assert limited.reasons[0].startswith("--max-vram 7.00 GB")
    with pytest.raises(NoPlan, match=r"--max-vram 1\.00 GB is less than the"):
        plan(sd15, SHAPE, devices, Budget(max_vram=GB), Preferences(device="cuda"))
    with pytest.raises(RequestError, match="no memory mode mapped on cuda"):
        choose(sd15, devices=devices, device="cuda", memory_mode="mapped")


def test_what_a_gpu_does_not_read_runs_on_the_processor(sd15: Package) -> None:
    newer = tuple(
        replace(a, opset=23 if a.variant == "plain" else 20) for a in sd15.manifest.artifacts
    )
    package = Package(sd15.root, replace(sd15.manifest, artifacts=newer))
    made = choose(package, devices=(ONNXRUNTIME, DML), device="dml")
    placed = {p.component: p.device.name for p in made.placements}
    assert placed == {"text_encoder": "cpu", "unet": "dml", "vae_decoder": "cpu"}
    assert "text_encoder on cpu, because dml reads no graph of it there is" in made.reasons
    assert made.placement("unet").options.dimensions == {"batch": 2, "height": 64, "width": 64}
    assert made.placement("vae_decoder").options.dimensions == {}


def test_openvino_has_no_mapped_mode(sd15: Package) -> None:
    with pytest.raises(RequestError, match="openvino has no memory mode mapped"):
        choose(sd15, runtime="openvino", memory_mode="mapped")


def test_no_device(sd15: Package) -> None:
    with pytest.raises(NoPlan, match="no engine"):
        plan(sd15, SHAPE, [], Budget(), Preferences())


def with_tiles(package: Package) -> Package:
    """The package with the autoencoder's chain for tiles: whole at first, then two in bands."""
    maps = [
        ("z", 4, "height", "width"),
        ("a", 512, "height", "width"),
        ("b", 256, "image_height", "image_width"),
        ("sample", 3, "image_height", "image_width"),
    ]
    specs = [
        TensorSpec(name, "float32", ("batch", channels, *sides)) for name, channels, *sides in maps
    ]
    chain = tuple(
        replace(
            artifact("vae_decoder", "tiles", index, activations),
            inputs=(specs[index],),
            outputs=(specs[index + 1],),
        )
        for index, activations in enumerate((50_000_000, 800_000_000, 400_000_000))
    )
    manifest = package.manifest
    return replace(package, manifest=replace(manifest, artifacts=(*manifest.artifacts, *chain)))


def test_the_autoencoder_works_in_tiles_where_memory_is_short(sd15: Package) -> None:
    package = with_tiles(sd15)
    whole = make(package, 32 * GB, 1 * GB)
    assert [placement.tiles for placement in whole.placements] == [1, 1, 1]
    artifacts = [
        replace(a, activation_bytes=700_000_000)
        if (a.component, a.variant) == ("vae_decoder", "segment")
        else a
        for a in package.manifest.artifacts
    ]
    large = replace(package, manifest=replace(package.manifest, artifacts=tuple(artifacts)))
    counts = []
    for limit in (650_000_000, 475_000_000):
        tiled = make(large, 32 * GB, limit)
        decoder = tiled.placement("vae_decoder")
        assert decoder.artifacts[0].variant == "tiles" and decoder.options.dimensions == {}
        assert f"vae_decoder in {decoder.tiles} tiles, to save on activations" in tiled.reasons
        assert f"{decoder.tiles} tiles, " in tiled.explain()
        counts.append(decoder.tiles)
    assert counts == [4, 8], "no more than needed"


def test_tiles_keep_whole_maps_in_float16_and_bands_beside_them(sd15: Package) -> None:
    made = make(with_tiles(sd15), 32 * GB, vae_tiles=4, memory_mode="mapped")
    # The second graph: twice a quarter of 800 MB, the map it reads and the one it makes.
    kept = 2 * 512 * 64 * 64 + 2 * 256 * 512 * 512
    assert made.placement("vae_decoder").private_bytes == 2 * 800_000_000 // 4 + kept
    assert made.reasons[-2] == "vae_decoder in 4 tiles, as asked"
    larger = replace(SHAPE, width=1024)
    more = make(with_tiles(sd15), 32 * GB, shape=larger, vae_tiles=4, memory_mode="mapped")
    twice = 2 * made.placement("vae_decoder").private_bytes
    assert more.placement("vae_decoder").private_bytes == twice


def test_tiles_that_cannot_be(sd15: Package) -> None:
    with pytest.raises(RequestError, match=r"cannot run in 8 tiles.*export it again"):
        make(sd15, vae_tiles=8)
    with pytest.raises(RequestError, match="vae tiles 65 is not between 1 and 64"):
        make(with_tiles(sd15), vae_tiles=65)
    assert make(sd15, vae_tiles=1).placement("vae_decoder").tiles == 1


def test_a_package_without_the_graph_says_what_makes_it(sd15: Package) -> None:
    artifacts = tuple(a for a in sd15.manifest.artifacts if a.component != "vae_decoder")
    package = replace(sd15, manifest=replace(sd15.manifest, artifacts=artifacts))
    with pytest.raises(NoPlan, match=r"sd15 has no vae_decoder graph for onnxruntime.*export it"):
        make(package)


def test_a_size_the_graph_does_not_have_is_refused(sd15: Package) -> None:
    port = TensorSpec("sample", "float32", (2, 4, 64, 64))
    artifacts = tuple(
        replace(a, inputs=(port,)) if a.component == "unet" else a for a in sd15.manifest.artifacts
    )
    package = replace(sd15, manifest=replace(sd15.manifest, artifacts=artifacts))
    make(package)
    with pytest.raises(RequestError, match="sd15 draws 512x512 only, not 512x768; export the mod"):
        make(package, shape=replace(SHAPE, height=768))


def in_eight_bits(package: Package) -> Package:
    unet = replace(package.manifest.weights["unet"], precision="int8")
    weights = {**package.manifest.weights, "unet": unet}
    return Package(package.root, replace(package.manifest, weights=weights))


def test_what_eight_bits_gain_is_said_by_processor(sd15: Package) -> None:
    narrow = in_eight_bits(sd15)
    why = "openvino, because it computes what this package has in 8 bits in 8 bits"
    assert why in choose(narrow).reasons
    old = replace(OPENVINO, precisions=("fp32",), seven_bits=True)
    made = choose(narrow, devices=(ONNXRUNTIME, old))
    assert made.placement("unet").device == old
    told = f"{why}, which gains less on this processor: without VNNI weights are brought to 7 bits"
    assert told in made.reasons
    assert not any(
        "7 bits" in reason for reason in choose(sd15, devices=(ONNXRUNTIME, old)).reasons
    )


FEWER = replace(SHAPE, downsampled=True)


def with_fewer_tokens(package: Package) -> Package:
    graphs = (artifact("unet", f"{name}+downsampled", activations=10**8) for name in NAMES)
    artifacts = (*package.manifest.artifacts, *graphs)
    return Package(package.root, replace(package.manifest, artifacts=artifacts))


NAMES = ("plain", "fused")


@pytest.mark.parametrize(
    ("shape", "wishes", "variant", "told"),
    [
        (FEWER, {}, "plain+downsampled", ""),
        (FEWER, {"runtime": "onnxruntime"}, "fused+downsampled", ""),
        (replace(FEWER, width=1024, height=768), {}, "plain+downsampled", ""),
        (SHAPE, {}, "plain", None),
        (FEWER, {"memory_mode": "mapped"}, "segment", "runs a chain of graphs"),
        (replace(FEWER, width=256, height=256), {}, "plain", "256x256 has too few tokens"),
    ],
)
def test_attention_over_fewer_tokens(
    sd15: Package, shape: RequestShape, wishes: dict[str, object], variant: str, told: str | None
) -> None:
    package = with_fewer_tokens(sd15)
    made = plan(package, shape, BOTH, Budget(), Preferences(**wishes))  # type: ignore[arg-type]
    assert {a.variant for a in made.placement("unet").artifacts} == {variant}
    assert any("every second row" in reason for reason in made.reasons) == (told == "")
    assert bool(made.notes) == bool(told)
    assert told is None or told in "".join(made.notes)
    assert made.notes == () or made.notes[0] in made.explain()


def test_packages_without_such_graphs_say_so(sd15: Package) -> None:
    made = plan(sd15, FEWER, BOTH, Budget(), Preferences())
    (note,) = made.notes
    assert note.startswith("attention's tokens are not downsampled: sd15 has no graph for it")
    assert {a.variant for a in made.placement("unet").artifacts} == {"plain"}
