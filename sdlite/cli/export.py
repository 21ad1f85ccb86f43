"""``sdlite export``: a checkpoint becomes a package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from sdlite import home
from sdlite.choices import PRECISIONS, WHOLE_PRECISIONS
from sdlite.cli.edge import common, tell
from sdlite.cli.extras import export_part
from sdlite.cli.progress import ByteBar, wanted
from sdlite.cli.table import readable
from sdlite.errors import RequestError
from sdlite.settings import choice
from sdlite.settings import size as size_of

FORMATS = ("onnx", "openvino", "coreml")
ATTENTIONS = ("original", "split_einsum")
PALETTES = ("4", "6", "8")
PREDICTIONS = ("epsilon", "v_prediction")


@click.command(short_help="Make a package of a checkpoint.")
@click.argument("source", metavar="SOURCE")
@click.argument("dest", metavar="[DEST]", required=False)
@click.option(
    "--precision",
    metavar="NAME",
    default="fp16",
    help="fp16 (half the size, the default), fp32, int8 (computed in 8 bits: fastest with OpenVINO,"
    " a quarter of the size) or w8 (only stored in 8 bits).",
)
@click.option(
    "--calibration",
    metavar="FILE",
    help="For int8: prompts to draw while ranges are measured, one a line; for an upscaler a "
    "picture or a folder of them. Default: built in.",
)
@click.option(
    "--scan",
    is_flag=True,
    help="For int8: also try each layer alone in 8 bits; those that change the result most stay in"
    " 16. Takes up to 8 runs of the U-Net and of the decoder for each of their layers.",
)
@click.option(
    "--format",
    metavar="NAME",
    default="onnx",
    help="onnx (the default), openvino (its own graphs beside those), or coreml for a Mac's GPU and"
    " Neural Engine.",
)
@click.option(
    "--attention",
    metavar="NAME",
    help="coreml: original (for the GPU, the default) or split_einsum (for the Neural Engine).",
)
@click.option("--chunks", is_flag=True, help="coreml: cut the U-Net in two, for the Neural Engine.")
@click.option(
    "--palette", metavar="BITS", help="coreml: weights as indices of 4, 6 or 8 bits. Default: fp16."
)
@click.option(
    "--size", metavar="WxH", help="coreml: the one size it draws. Default: the model's own."
)
@click.option(
    "--force", is_flag=True, help="Replace DEST if it is there, once the new one is done."
)
@click.option("--name", metavar="NAME", help="Model name in the package. Default: SOURCE's.")
@click.option(
    "--prediction",
    metavar="NAME",
    help="What the U-Net predicts: epsilon or v_prediction. Default: as SOURCE says or seems.",
)
@click.option(
    "--for",
    "package",
    metavar="MODEL",
    help="SOURCE is a ControlNet, a T2I-Adapter, an IP-Adapter or a tiny autoencoder (TAESD): add "
    "it to this model, or with DEST to a copy of it.",
)
@click.option(
    "--image-encoder",
    metavar="FOLDER",
    help="For an IP-Adapter: the network that looks at pictures (config.json and weights). "
    "Default: one MODEL has, or image_encoder beside SOURCE.",
)
@click.option("--progress/--no-progress", default=None, help="Show a bar. Default: in a terminal.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object: path, sizes, seconds."
)
@common
def export(
    source: str,
    dest: str | None,
    precision: str,
    calibration: str | None,
    scan: bool,
    format: str,
    force: bool,
    name: str | None,
    prediction: str | None,
    package: str | None,
    image_encoder: str | None,
    progress: bool | None,
    as_json: bool,
    attention: str | None,
    chunks: bool,
    palette: str | None,
    size: str | None,
) -> None:
    """Make a package folder of SOURCE, without PyTorch.

    SOURCE is a Stable Diffusion checkpoint: one .safetensors, .ckpt or .gguf file, or a diffusers
    folder. DEST is a new folder; without it the package goes to your models and is called like
    SOURCE. SOURCE may also be an upscaler (ESRGAN, Real-ESRGAN, SwinIR; .pth, .safetensors, .onnx),
    which becomes one .onnx file for sdlite upscale and --hires-upscaler.
    Nothing in SOURCE is executed. If the export fails or is interrupted, nothing is left of it.

    With --for, SOURCE is a ControlNet or T2I-Adapter (a file or diffusers folder) or an IP-Adapter
    (a file), added to a model that was exported before; --name is what --control calls it. Or it is
    TAESD, a tiny autoencoder, for --decoder tiny and previews: its files, a folder of both, or
    diffusers' folder.

    \b
    Examples:
      sdlite export dream.safetensors
      sdlite generate --model dream "a castle on a hill"
      sdlite export dream.safetensors /big/disk/dream --precision fp32
      sdlite export dream.safetensors dream-int8 --precision int8
      sdlite export control_canny.safetensors --for dream --name canny
      sdlite export ip-adapter_sd15.safetensors --for dream --image-encoder image_encoder
      sdlite export taesd_decoder.safetensors --for dream
      sdlite export RealESRGAN_x4plus.pth
      sdlite export dream.safetensors --format coreml --attention split_einsum --chunks --palette 6
    """
    path = Path(source)
    coreml = coreml_options(attention, chunks, palette, size)
    given = next((option for option, value in coreml.items() if value), None)
    if image_encoder is not None and package is None:
        raise RequestError("--image-encoder is for IP-Adapters, which --for adds to a model")
    if calibration is not None and precision != "int8":
        raise RequestError(
            f"--calibration is for --precision int8, which measures ranges, not for {precision}"
        )
    if scan and precision != "int8":
        raise RequestError(
            f"--scan is for --precision int8, whose layers it tries, not {precision}"
        )
    if package is not None:
        if given is not None or format != "onnx":
            raise RequestError(f"--{given or 'format'} is about checkpoints, not what --for adds")
        if scan:
            raise RequestError("--scan tries the layers of a checkpoint, not of what --for adds")
        added = add_one(
            path,
            package,
            dest,
            precision,
            force,
            wanted(progress),
            name,
            prediction,
            None if image_encoder is None else Path(image_encoder),
            None if calibration is None else Path(calibration),
        )
        if as_json:
            click.echo(json.dumps(described(added), indent=1))
        else:
            tell_added(added)
        return
    if is_upscaler(path):
        if option := "prediction" if prediction is not None else "scan" if scan else given:
            raise RequestError(f"{path.name} is an upscaler; --{option} is about checkpoints")
        whole = choice((*WHOLE_PRECISIONS, "int8"))("--precision", precision)
        _upscaler(path, dest, whole, name, force, as_json, calibration)
        return
    target = Path(dest) if dest is not None else home.folders().models / package_name(path)
    shown = wanted(progress)
    report = export_one(
        path, target, precision, format, force, shown, name, prediction, coreml, calibration, scan
    )
    if as_json:
        click.echo(json.dumps(described(report), indent=1))
    else:
        tell_report(report)


def is_upscaler(source: Path) -> bool:
    """Whether a file is an upscaler: by its ending where only those have it, else by tensors."""
    suffix = source.suffix.lower()
    if source.is_dir() or not source.exists():
        return False
    if suffix in (".pth", ".onnx"):
        return True
    return suffix in (".safetensors", ".pt") and bool(
        export_part("upscaler.source").is_upscaler(source)
    )


def _upscaler(
    source: Path,
    dest: str | None,
    precision: str,
    name: str | None,
    force: bool,
    as_json: bool,
    calibration: str | None,
) -> None:
    from sdlite.upscalers.files import FOLDER

    folder = home.folders().models / FOLDER
    target = folder / f"{name or source.stem}.onnx" if dest is None else Path(dest)
    report = export_part("upscaler.export").export_upscaler(
        source,
        target,
        precision=precision,
        name=name,
        force=force,
        calibration=None if calibration is None else Path(calibration),
    )
    if as_json:
        click.echo(json.dumps(described(report), indent=1))
        return
    click.echo(str(report.path))
    words = f"{report.name}: {report.kind}, scale {report.scale}, {readable(report.size)}"
    if report.likeness is not None:
        words += f", in 8 bits {report.likeness} dB like itself"
    tell(f"{words}, {report.seconds:.1f} s; sdlite upscale IMAGE --upscaler {report.path.stem}")


def package_name(source: Path) -> str:
    """What a package of ``source`` is called when nobody says."""
    whole = source.absolute()
    return whole.name if whole.is_dir() else whole.stem


def export_one(
    source: Path,
    dest: Path,
    precision: str,
    format: str,
    force: bool,
    shown: bool,
    name: str | None = None,
    prediction: str | None = None,
    coreml: Mapping[str, Any] | None = None,
    calibration: str | None = None,
    scan: bool = False,
) -> Any:
    """Export with a bar; returns the ``ExportReport``."""
    exported = (
        choice(PRECISIONS)("--precision", precision),
        choice(FORMATS)("--format", format),
    )
    if prediction is not None:
        prediction = choice(PREDICTIONS)("--prediction", prediction)
    part = export_part("export")
    given = {name: value for name, value in (coreml or {}).items() if value}
    if given and exported[1] != "coreml":
        raise RequestError(f"--{next(iter(given))} is for --format coreml only")
    with ByteBar(None, shown) as bar:
        return part.export_package(
            source,
            dest,
            precision=exported[0],
            format=exported[1],
            force=force,
            name=name,
            prediction=prediction,
            progress=bar.set,
            coreml=part.CoremlOptions(**given) if exported[1] == "coreml" else None,
            calibration=None if calibration is None else Path(calibration),
            search=scan,
        )


def add_one(
    source: Path,
    package: str,
    dest: str | None,
    precision: str,
    force: bool,
    shown: bool,
    name: str | None,
    prediction: str | None,
    image_encoder: Path | None = None,
    calibration: Path | None = None,
) -> Any:
    """Add an adapter or a tiny autoencoder to a package with a bar; returns its report."""
    tiny = export_part("source.tiny").is_tiny(source)
    exported = choice(WHOLE_PRECISIONS if tiny else PRECISIONS)("--precision", precision)
    if prediction is not None:
        raise RequestError("--prediction is the model's, it says nothing of what --for adds to it")
    target = None if dest is None else Path(dest)
    if tiny:
        given = "name" if name is not None else "image-encoder" if image_encoder else None
        if given is not None:
            raise RequestError(f"{source.name} is a tiny autoencoder; it takes no --{given}")
        with ByteBar(None, shown) as bar:
            return export_part("tinyvae").add_tiny_vae(
                source,
                home.find_model(package),
                target,
                precision=exported,
                force=force,
                progress=bar.set,
            )
    part = export_part("adapters")
    with ByteBar(None, shown) as bar:
        return part.add_adapter(
            source,
            home.find_model(package),
            target,
            precision=exported,
            name=name,
            image_encoder=image_encoder,
            force=force,
            progress=bar.set,
            calibration=calibration,
        )


def tell_added(report: Any) -> None:
    """The package's path on standard output, the rest on standard error."""
    click.echo(str(report.path))
    if hasattr(report, "parts"):
        tell(
            f"{' and '.join(report.parts)} of {report.name}: {readable(report.size)} in "
            f"{report.precision}, {report.seconds:.1f} s, licence {report.licence}; draw with "
            "--decoder tiny"
        )
        return
    tell(
        f"{report.kind} {report.name}: {readable(report.size)} in {report.precision}, "
        f"{report.seconds:.1f} s, licence {report.licence}; draw with --control {report.name} "
        "--control-image FILE"
    )


def coreml_options(
    attention: str | None, chunks: bool, palette: str | None, size: str | None
) -> dict[str, Any]:
    """The fields of ``CoremlOptions`` as checked values; nothing where nothing is given."""
    return {
        "attention": attention and choice(ATTENTIONS)("--attention", attention),
        "chunks": chunks,
        "palette": palette and int(choice(PALETTES)("--palette", palette)),
        "size": size and size_of("--size", size),
    }


def described(report: Any) -> dict[str, object]:
    """An ``ExportReport`` as JSON takes it."""
    return {**asdict(report), "path": str(report.path.absolute())}


def tell_report(report: Any) -> None:
    """The package's path on standard output, the rest on standard error."""
    click.echo(str(report.path))
    for note in report.notes:
        tell(f"note: {note}")
    parts = ", ".join(f"{part} {readable(size)}" for part, size in report.sizes.items())
    words = [
        f"{report.name}: {readable(report.size)} in {report.precision} ({parts})",
        f"{report.seconds:.1f} s",
    ]
    if report.peak_bytes is not None:
        words.append(f"peak memory {readable(report.peak_bytes)}")
    words.append(f"licence {report.licence}")
    tell(", ".join(words))
