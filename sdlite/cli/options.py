"""Options of the commands that draw, and what completes them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from sdlite import home, settings
from sdlite.choices import COMPUTE_PRECISIONS, DECODERS, EMPHASES, MEMORY_MODES, RNGS, TILINGS
from sdlite.cli.controls import control_options
from sdlite.cli.loras import lora_options
from sdlite.errors import SdliteError
from sdlite.output import FORMATS
from sdlite.profiles import PROFILES

Function = TypeVar("Function", bound=Callable[..., Any])


def setting(
    name: str, *flags: str, metavar: str, help: str, complete: Callable[[], list[str]] | None = None
) -> Callable[[Function], Function]:
    """An option whose value is checked, and looked up elsewhere when missing, by the settings."""

    def offers(_ctx: click.Context, _param: click.Parameter, begun: str) -> list[CompletionItem]:
        try:
            names = complete() if complete is not None else []
        except SdliteError:
            names = []
        return [CompletionItem(name) for name in names if name.lower().startswith(begun.lower())]

    return click.option(
        f"--{name}",
        *flags,
        name.replace("-", "_"),
        metavar=metavar,
        help=help,
        shell_complete=offers if complete is not None else None,
    )


def model_names() -> list[str]:
    """Models that can be drawn with."""
    return [model.name for model in home.models() if model.ready]


def sampler_names() -> list[str]:
    """Samplers in A1111's spelling."""
    from sdlite.sampling import SAMPLERS

    return [info.name for info in SAMPLERS]


def runtime_names() -> list[str]:
    """Engines that are registered."""
    from sdlite import registry

    return list(registry.names())


def schedule_names() -> list[str]:
    """Schedules in A1111's spelling."""
    from sdlite.sampling import SCHEDULES

    return [info.label for info in SCHEDULES]


def load_settings() -> settings.Settings:
    """The user's settings file and environment."""
    return settings.read(home.folders().settings, os.environ)


_PLACES = (
    setting(
        "model",
        "-m",
        metavar="NAME|PATH",
        complete=model_names,
        help="Which model; see sdlite models. Default: shapes.",
    ),
    setting(
        "output",
        "-o",
        metavar="FILE|FOLDER",
        help="Where to write. Several pictures are numbered; a folder gets sdlite-0001.png and so "
        "on. Default: the current folder.",
    ),
)
"""Which model, and where pictures go."""
_PICTURES = (
    setting(
        "images", "-n", metavar="N", help="Pictures per prompt, with seeds counting up. Default: 1."
    ),
    setting("negative", metavar="TEXT", help="What to steer away from."),
    setting("steps", "-s", metavar="N", help="Steps, 1 to 1000; 20 is usual."),
    setting("size", metavar="WxH", help="Pixels, multiples of 8, at most 4096."),
    setting(
        "guidance",
        "-g",
        metavar="SCALE",
        help="How closely to follow the prompt, 0 to 100; 5 to 9 is usual, 1 turns it off.",
    ),
    setting(
        "seed",
        metavar="N",
        help="Same seed, same picture. 0 to 2**64-1; -1, the default, draws one.",
    ),
    setting(
        "sampler",
        metavar="NAME",
        complete=sampler_names,
        help='E.g. "Euler a", "DPM++ 2M", "DDIM"; any usual spelling.',
    ),
    setting(
        "schedule",
        metavar="NAME",
        complete=schedule_names,
        help="E.g. Karras, Exponential, Normal; any usual spelling.",
    ),
    setting(
        "sigmas",
        metavar="LIST",
        help="Noise levels instead of a schedule and steps, falling, e.g. 14.6,7,3,1,0.3,0.03.",
    ),
    setting(
        "eta",
        metavar="SHARE",
        help="Fresh noise of samplers that take it, 0 to 1. Default: the sampler's.",
    ),
    setting("s-churn", metavar="N", help="Noise Euler, Heun and DPM2 add to every step, 0 to 100."),
    setting("s-tmin", metavar="SIGMA", help="Lowest noise level at which they do."),
    setting("s-tmax", metavar="SIGMA", help="Highest noise level at which they do; 0 is any."),
    setting("s-noise", metavar="N", help="Deviation of noise samplers add, 0 to 2; 1 is usual."),
    setting(
        "variation-strength",
        metavar="SHARE",
        help="Go this far, 0 to 1, from the noise of the seed to that of the variation seed; "
        "pictures then differ in their variation seeds.",
    ),
    setting("variation-seed", metavar="N", help="Seed to vary with; -1, the default, draws one."),
    setting(
        "seed-resize",
        metavar="WxH",
        help="Put the noise of this size in the middle: a seed liked at one size, at another.",
    ),
    setting(
        "ensd",
        metavar="N",
        help="Added to the seed for noise samplers add (A1111's Eta noise seed delta).",
    ),
    setting(
        "rng",
        metavar="NAME",
        complete=lambda: list(RNGS),
        help="Whose seeds these are: cpu (torch, the default), nv (A1111 on NVIDIA), numpy.",
    ),
    setting(
        "safety-checker",
        metavar="on|off",
        help="Make pictures black that the model's safety checker objects to. Default: off.",
    ),
    setting(
        "tiling",
        metavar="AXES",
        complete=lambda: list(TILINGS),
        help="Let opposite edges fit: x (left and right), y, or xy. Default: none.",
    ),
    setting(
        "clip-skip",
        metavar="N",
        help="Layer of the text encoder, from the end: 1 is the last, the default; some models "
        "were made for 2.",
    ),
    setting(
        "emphasis",
        metavar="NAME",
        complete=lambda: list(EMPHASES),
        help='How weights in prompts count: Original (A1111, the default), "No norm", Ignore, '
        "None, ComfyUI, compel.",
    ),
    setting(
        "guidance-rescale",
        metavar="SHARE",
        help="Take back the contrast guidance adds, 0 to 1; 0.7 is usual. Default: the model's.",
    ),
    setting(
        "guidance-interval",
        metavar="LOW-HIGH",
        help="Noise levels (sigmas) at which guidance acts, e.g. 0.3-5.4; the others take half "
        "the time.",
    ),
    setting(
        "decoder",
        metavar="NAME",
        complete=lambda: list(DECODERS),
        help="full, the model's own, or tiny, a small one added with sdlite export TAESD --for "
        "MODEL. Default: the profile's.",
    ),
    setting(
        "profile",
        metavar="NAME",
        complete=lambda: list(PROFILES),
        help="How much time to save and how far to go from the model's own picture for it: "
        "quality (nothing, the default), balanced, fast, draft.",
    ),
    click.option(
        "--style",
        "styles",
        metavar="NAME",
        multiple=True,
        help="Add a style to the prompts; may be given several times.",
    ),
    setting(
        "styles-file",
        metavar="FILE",
        help="Where styles are, A1111's styles.csv. Default: styles.csv beside the settings.",
    ),
    setting(
        "wildcards",
        metavar="FOLDER",
        help="Replace __name__ in prompts by a line of FOLDER/name.txt, chosen by the seed. "
        "Default: wildcards beside the settings.",
    ),
    lora_options(),
    click.option(
        "--embedding",
        "embeddings",
        metavar="FILE",
        multiple=True,
        help="Know a textual inversion by its file's name in prompts; those in the model folders "
        "are known anyway. May be given several times.",
    ),
    control_options,
)
"""What is drawn."""
_RUNNING = (
    setting(
        "vae",
        metavar="FILE",
        help="Another autoencoder than the model's own: a file, or a diffusers folder of one.",
    ),
    setting("threads", "-t", metavar="N", help="Compute threads. Default: one a physical core."),
    setting(
        "precision",
        metavar="NAME",
        complete=lambda: list(COMPUTE_PRECISIONS),
        help="What to compute in: fp32, bf16 or fp16. Default: what is fast on the device.",
    ),
    setting("max-memory", metavar="BYTES", help="Most main memory to take, e.g. 1.5G or 900M."),
    setting(
        "deadline",
        metavar="TIME",
        help="Choose steps and size, where they are not given, to be done in TIME, like 30s or 2m.",
    ),
    setting("max-vram", metavar="BYTES", help="Most of a GPU's own memory to take, e.g. 2.5G."),
    setting(
        "memory-mode",
        metavar="MODE",
        complete=lambda: list(MEMORY_MODES),
        help="auto, normal (fastest) or mapped (weights stay in their file).",
    ),
    setting(
        "vae-tiles",
        metavar="N",
        help="Tiles the autoencoder works in: the same picture in less memory. Default: as needed.",
    ),
    setting(
        "runtime",
        metavar="NAME",
        complete=runtime_names,
        help="Engine, e.g. openvino; see sdlite devices. Default: the fastest known for the model.",
    ),
    setting("device", metavar="NAME", help="Device of the engine; see sdlite devices."),
    setting(
        "cache-limit",
        metavar="BYTES",
        help="Most disk for graphs compiled for this machine; 0 keeps none. Default: 2G.",
    ),
    setting(
        "format",
        "-f",
        metavar="NAME",
        complete=lambda: list(FORMATS),
        help="png, jpg or webp. Default: what the file's name says, else png.",
    ),
    click.option(
        "--metadata/--no-metadata",
        default=None,
        help="Write prompt, seed and settings into the picture, as A1111 does. Default: yes.",
    ),
    click.option(
        "--overwrite",
        is_flag=True,
        help="Replace files that exist; without it they are never touched.",
    ),
    click.option(
        "--preview/--no-preview",
        default=None,
        help="Show the growing picture: in the terminal where it can, else as NAME.preview.png.",
    ),
    click.option(
        "--progress/--no-progress",
        default=None,
        help="Show a progress bar. Default: in a terminal.",
    ),
    click.option("-q", "--quiet", is_flag=True, help="Print nothing but the paths."),
    click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="Print one JSON object: paths, seeds, timings, memory, plan.",
    ),
)
"""How it is done and told."""
PICTURE_SETTINGS = (
    "images",
    "negative",
    "steps",
    "size",
    "guidance",
    "seed",
    "sampler",
    "schedule",
    "rng",
    "variation_strength",
    "variation_seed",
    "seed_resize",
    "ensd",
    "eta",
    "s_churn",
    "s_tmin",
    "s_tmax",
    "s_noise",
    "sigmas",
    "safety_checker",
    "tiling",
    "clip_skip",
    "emphasis",
    "guidance_rescale",
    "guidance_interval",
    "decoder",
    "profile",
    "styles_file",
    "wildcards",
)
"""Settings that ``running_options`` does not offer."""


def drawing_options(function: Function) -> Function:
    """Add the options every command that draws has; ``DrawingOptions`` reads them."""
    for option in reversed((*_PLACES, *_PICTURES, *_RUNNING)):
        function = option(function)
    return function


def running_options(function: Function) -> Function:
    """Add those of them that do not say what is drawn; ``DrawingOptions.of_one`` reads them."""
    for option in reversed((*_PLACES, *_RUNNING)):
        function = option(function)
    return function
