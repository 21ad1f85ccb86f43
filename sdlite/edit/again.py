"""From the parameters a picture carries to a request that repeats it, and what cannot be repeated.

Reads what A1111 writes, and tools that write like it: sdlite, stable-diffusion.cpp, Forge.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sdlite.assets import find_asset
from sdlite.choices import find_tiling
from sdlite.edit.branch import BRANCHED
from sdlite.edit.upscale import find_upscaler
from sdlite.errors import RequestError, UnknownName
from sdlite.manifest import Manifest
from sdlite.metadata import CONTENT_LABELS, RESIZE_LABELS, Parameters
from sdlite.profiles import find_profile
from sdlite.sampling import resolve
from sdlite.text.tags import LORA_KINDS, split_tags
from sdlite.types import Edit, Hires, Request
from sdlite.weights.files import short_hash

KNOWN = frozenset(
    {
        *(
            "Steps",
            "Sampler",
            "Schedule type",
            "CFG scale",
            "Image CFG scale",
            "Noise level",
            "Seed",
            "Size-1",
            "Size-2",
        ),
        *("Model hash", "Model", "Denoising strength", "Clip skip", "RNG", "Version"),
        *("Init image hash", "Resize mode", "Strength rules", "Mask blur", "Mask mode"),
        *("Masked content", "Inpaint area", "Masked area padding", "Mask source", "Soft mask"),
        *("Paste back", "Hires CFG Scale", "Hires prompt", "Hires negative prompt"),
        *("Hires sampler", "Hires schedule type", "Hires upscale", "Hires resize-1"),
        *("Hires resize-2", "Hires steps", "Hires upscaler", "Emphasis", "Guidance rescale"),
        *("Guidance interval", "Lora hashes", "TI hashes", "VAE", "VAE hash"),
        *("Outpaint", "Outpaint seam", "Outpaint window-1", "Outpaint window-2"),
        *("Outpaint content", "SD upscale", "SD upscale upscaler", "SD upscale overlap"),
        *("SD upscale tile-1", "SD upscale tile-2"),
        *("Variation seed", "Variation seed strength", "Seed resize from-1", "Seed resize from-2"),
        *("ENSD", "Eta", "Eta DDIM", "Sigma churn", "Sigma tmin", "Sigma tmax", "Sigma noise"),
        *("Sigmas", "Tiling", "Safety checker", "Profile", "Model answers", "VAE Decoder"),
        "Token downsampling",
    }
)
"""Parameters that are read, or named when they cannot be followed."""
OWN = re.compile(r"sdlite (\S+)")


@dataclass(frozen=True)
class Again:
    """A picture's job, as far as it can be known."""

    request: Request
    """The job; an edit without its pictures is in ``edit``."""
    problems: tuple[str, ...]
    """What may differ from the picture, and why."""
    edit: dict[str, Any] | None = None
    """Settings of ``Edit`` but its pictures, when the picture was made from another one."""
    masked: bool = False
    """Whether there was a mask."""


def again(found: Parameters, manifest: Manifest, version: str) -> Again:
    """Read a picture's parameters.

    Args:
        found: what it carries.
        manifest: of the model it is repeated with.
        version: of sdlite.

    Raises:
        RequestError: there are no parameters, or one has a value that cannot be.
    """
    if "Steps" not in found.fields or "Seed" not in found.fields:
        raise RequestError(
            "the picture's parameters have neither steps nor seed: not to be repeated"
        )
    problems: list[str] = []
    reader = _Reader(found)
    rng = _rng(found, problems)
    sampler, schedule = _sampler(found, problems)
    request = Request(
        prompt=found.prompt,
        negative_prompt=found.negative_prompt,
        width=reader.whole("Size-1"),
        height=reader.whole("Size-2"),
        steps=reader.whole("Steps"),
        guidance=reader.real("CFG scale"),
        sampler=sampler,
        schedule=schedule,
        seed=reader.whole("Seed") or 0,
        rng=rng,
        clip_skip=reader.whole("Clip skip") or 1,
        emphasis=found.get("Emphasis") or "Original",
        tiling=_tiling(found, problems),
        safety_checker="Safety checker" in found.fields,
        guidance_rescale=reader.real("Guidance rescale"),
        guidance_interval=reader.pair("Guidance interval"),
        profile=found.get("Profile") or "quality",
        decoder=_decoder(found),
        **_noise(reader),
    )
    _model(found, manifest, version, problems)
    hashes = found.fields.get("Lora hashes", "")
    request = replace(request, prompt=_without_missing(found.prompt, hashes, problems))
    _extras(found, problems)
    strength = reader.real("Denoising strength")
    if any(name.startswith("Hires ") for name in found.fields):
        return Again(
            replace(request, hires=_hires(found, reader, strength, problems)), tuple(problems)
        )
    if strength is None:
        return Again(request, tuple(problems))
    masked = any(name.startswith(("Mask", "Inpaint")) for name in found.fields)
    edit, size = _edit(found, reader, strength)
    return Again(
        request if size else replace(request, width=None, height=None),
        tuple(problems),
        edit,
        masked,
    )


@dataclass(frozen=True)
class _Reader:
    """Numbers among the parameters; raises ``RequestError`` naming the parameter."""

    found: Parameters

    def _read(self, name: str, parse: Callable[[str], Any]) -> Any:
        text = self.found.fields.get(name)
        if text is None:
            return None
        try:
            return parse(text)
        except ValueError:
            raise RequestError(f"the picture's parameter {name} is {text!r}, no number") from None

    def whole(self, name: str) -> int | None:
        return self._read(name, int)  # type: ignore[no-any-return]

    def real(self, name: str) -> float | None:
        return self._read(name, float)  # type: ignore[no-any-return]

    def reals(self, name: str) -> tuple[float, ...] | None:
        def parse(text: str) -> tuple[float, ...]:
            return tuple(float(part) for part in text.split(","))

        return self._read(name, parse)  # type: ignore[no-any-return]

    def pair(self, name: str) -> tuple[float, float] | None:
        def parse(text: str) -> tuple[float, float]:
            low, _, high = text.partition("-")
            return float(low), float(high)

        return self._read(name, parse)  # type: ignore[no-any-return]


def _decoder(found: Parameters) -> str | None:
    if found.get("VAE Decoder") == "TAESD":
        return "tiny"
    # A profile that would take the tiny one had none then.
    tiny = find_profile(found.get("Profile") or "quality").tiny
    return "full" if tiny else None


def _noise(reader: _Reader) -> dict[str, Any]:
    """Fields of ``Request`` about seeds and the options of its sampler."""
    eta = reader.real("Eta")
    width, height = reader.whole("Seed resize from-1"), reader.whole("Seed resize from-2")
    noise = reader.real("Sigma noise")
    return {
        "variation_strength": reader.real("Variation seed strength") or 0.0,
        "variation_seed": reader.whole("Variation seed") or 0,
        "seed_resize": (width, height) if width and height else None,
        "seed_delta": reader.whole("ENSD") or 0,
        "eta": reader.real("Eta DDIM") if eta is None else eta,
        "s_churn": reader.real("Sigma churn") or 0.0,
        "s_tmin": reader.real("Sigma tmin") or 0.0,
        "s_tmax": reader.real("Sigma tmax") or 0.0,
        "s_noise": 1.0 if noise is None else noise,
        "sigmas": reader.reals("Sigmas"),
    }


def _rng(found: Parameters, problems: list[str]) -> str:
    label = found.get("RNG") or "GPU"
    if label in ("CPU", "NV", "numpy"):
        return label.lower()
    if label.upper() == "GPU" or label == "cuda":
        if "Version" in found.fields and "GPU" not in found.fields.get("RNG", ""):
            problems.append(
                "its noise came from a graphics card: NVIDIA's is repeated, another card's is not"
            )
        return "nv"
    problems.append(f"random numbers {label!r} are not known; torch's are taken")
    return "cpu"


def _tiling(found: Parameters, problems: list[str]) -> str:
    text = found.fields.get("Tiling", "")
    try:
        return find_tiling(text)
    except UnknownName:
        problems.append(f"tiling {text!r} is not known; it is left out")
        return ""


def _sampler(found: Parameters, problems: list[str]) -> tuple[str | None, str | None]:
    sampler, schedule = found.fields.get("Sampler"), found.get("Schedule type")
    try:
        if sampler is not None:
            info, sort = resolve(sampler, schedule)
            return info.name, sort.label
    except UnknownName as error:
        problems.append(f"{error}; the model's own is taken")
    return None, None


def _model(found: Parameters, manifest: Manifest, version: str, problems: list[str]) -> None:
    name, short = found.fields.get("Model"), found.fields.get("Model hash", "")
    same = bool(short) and manifest.source.sha256.startswith(short.lower())
    if (name or short) and not same:
        told = f"{name or 'a model'}" + (f" ({short})" if short else "")
        ours = f"{manifest.name} ({manifest.source.sha256[:10]})"
        problems.append(f"it was drawn with {told}, this is {ours}")
    program = found.fields.get("Version")
    own = OWN.fullmatch(program or "")
    if own is None:
        who = program or "a program that does not say which"
        problems.append(f"it was drawn by {who}: another engine rounds otherwise")
    elif own[1] != version:
        problems.append(f"it was drawn by sdlite {own[1]}, this is {version}")


def _without_missing(prompt: str, hashes: str, problems: list[str]) -> str:
    """A prompt without the tags of LoRAs that are not here; tells those, and others of a name."""
    words, tags = split_tags(prompt)
    told = dict(part.strip().split(": ", 1) for part in hashes.split(",") if ": " in part)
    for tag in tags:
        name = tag.arguments[0] if tag.arguments else ""
        if tag.kind not in LORA_KINDS:
            continue
        was = told.get(name, "").strip().lower()
        try:
            path = find_asset("LoRA", name)
        except UnknownName:
            which = f"{name} ({was})" if was else name
            problems.append(f"its LoRA {which} is not in the model folders: drawn without it")
            prompt = prompt.replace(tag.text, "")
            continue
        is_now = short_hash(path, whole=False) if was else ""
        if was and not is_now.startswith(was[:12]) and not was.startswith(is_now):
            problems.append(f"its LoRA {name} had hash {was}, the one here has {is_now}")
    named = {tag.arguments[0] for tag in tags if tag.arguments}
    for name, was in told.items():
        if name not in named:
            problems.append(f"it used LoRA {name}: {was}, which its prompt does not name")
    return prompt.strip() if prompt.strip() or not words.strip() else words


def _extras(found: Parameters, problems: list[str]) -> None:
    """Name what is not followed."""
    if "TI hashes" in found.fields:
        hashes = found.fields["TI hashes"]
        problems.append(f"it used textual inversion {hashes}, which must be there by name")
    if "VAE" in found.fields or "VAE hash" in found.fields:
        vae = found.fields.get("VAE", found.fields.get("VAE hash"))
        problems.append(f"it used another VAE, {vae}; the model's own is taken")
    if BRANCHED in found.fields:
        problems.append(
            f"its first steps were drawn as another picture: {BRANCHED.lower()} "
            f"{found.fields[BRANCHED]}"
        )
    others = sorted(set(found.fields) - KNOWN - {BRANCHED})
    if others:
        named = ", ".join(f"{name}: {found.fields[name]}" for name in others)
        problems.append(f"parameters that are not followed: {named}")


def _hires(
    found: Parameters, reader: _Reader, strength: float | None, problems: list[str]
) -> Hires:
    upscaler = found.fields.get("Hires upscaler", "Latent")
    try:
        upscaler = find_upscaler(upscaler).name
    except UnknownName:
        problems.append(f"its upscaler {upscaler} is not there; Lanczos is taken")
        upscaler = "Lanczos"
    sampler = found.fields.get("Hires sampler")
    schedule = found.fields.get("Hires schedule type")
    return Hires(
        scale=reader.real("Hires upscale") or 2.0,
        width=reader.whole("Hires resize-1") or None,
        height=reader.whole("Hires resize-2") or None,
        upscaler=upscaler,
        steps=reader.whole("Hires steps") or None,
        strength=0.7 if strength is None else strength,
        sampler=None if sampler == "Use same sampler" else sampler,
        schedule=None if schedule == "Use same scheduler" else schedule,
        prompt=found.fields.get("Hires prompt", ""),
        negative_prompt=found.fields.get("Hires negative prompt", ""),
        guidance=reader.real("Hires CFG Scale"),
    )


def _edit(found: Parameters, reader: _Reader, strength: float) -> tuple[dict[str, Any], bool]:
    """Settings of the edit, and whether the size was chosen."""
    contents = {label: name for name, label in CONTENT_LABELS.items()}
    resizes = {label: name for name, label in RESIZE_LABELS.items()}
    only = found.fields.get("Inpaint area") == "Only masked"
    ours = OWN.fullmatch(found.fields.get("Version", "")) is not None
    resize = resizes.get(found.fields.get("Resize mode", ""))
    blur = reader.real("Mask blur")
    padding = reader.whole("Masked area padding")
    image_guidance = reader.real("Image CFG scale")
    settings = {
        "strength": strength,
        "rules": found.fields.get("Strength rules", "a1111"),
        "resize": resize,
        "mask_blur": 0.0 if blur is None else blur,
        "invert_mask": found.fields.get("Mask mode") == "Inpaint not masked",
        "mask_content": contents.get(found.fields.get("Masked content", ""), "original"),
        "only_masked": only,
        "padding": Edit.padding if padding is None else padding,
        "alpha_mask": found.fields.get("Mask source") == "alpha",
        "soft_mask": "Soft mask" in found.fields,
        "paste": "Paste back" not in found.fields,
        "noise_level": reader.whole("Noise level"),
        "image_guidance": Edit.image_guidance if image_guidance is None else image_guidance,
    }
    # A1111 always works at the size it writes; sdlite without "Resize mode" at the picture's own.
    return settings, only or resize is not None or not ours
