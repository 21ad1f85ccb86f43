"""Settings of A1111 that mean something here, for the server and for one request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sdlite.choices import find_emphasis, find_rng
from sdlite.errors import RequestError
from sdlite.server.problem import Refused, unsupported
from sdlite.server.shelf import Shelf

if TYPE_CHECKING:
    from sdlite.home import Model

FORMATS = {"png": "png", "jpg": "jpg", "jpeg": "jpg", "webp": "webp"}
NO_VAE = ("", "none", "automatic")
IGNORED = {
    "live_previews_enable": True,
    "live_previews_image_format": "png",
    "show_progress_every_n_steps": 1,
    "show_progress_type": "Approx cheap",
    "return_grid": False,
    "do_not_show_images": False,
    "samples_save": False,
    "grid_save": False,
    "enable_pnginfo": True,
    "sd_vae_checkpoint_cache": 0,
    "sd_checkpoint_cache": 0,
    "sd_checkpoints_limit": 1,
    "sd_lora": "None",
    "sd_hypernetwork": "None",
    "face_restoration": False,
    "token_merging_ratio": 0,
    "token_merging_ratio_hr": 0,
    "inpainting_mask_weight": 1,
    "initial_noise_multiplier": 1,
    "img2img_fix_steps": False,
    "img2img_color_correction": False,
}
"""Settings clients read and set, and the value that says what happens here. Those that would change
pictures can only be set to that value."""
FIXED = (
    "sd_hypernetwork",
    "sd_lora",
    "face_restoration",
    "token_merging_ratio",
    "token_merging_ratio_hr",
    "inpainting_mask_weight",
    "initial_noise_multiplier",
    "img2img_fix_steps",
    "img2img_color_correction",
)
RNGS = {"cpu": "CPU", "nv": "NV", "numpy": "numpy"}


class Options:
    """The server's settings.

    Args:
        shelf: models that can be chosen.
        metadata: whether pictures carry their parameters.
    """

    def __init__(self, shelf: Shelf, metadata: bool = True) -> None:
        self._shelf = shelf
        self._lock = threading.Lock()
        self._metadata = metadata
        self._values: dict[str, Any] = {
            "CLIP_stop_at_last_layers": 1,
            "samples_format": "png",
            "randn_source": "CPU",
            "emphasis": "Original",
            "eta_noise_seed_delta": 0,
            "jpeg_quality": 95,
            "sd_vae": "Automatic",
        }
        self._model: str | None = None

    def values(self) -> dict[str, Any]:
        """Every setting, as ``GET /options`` gives them."""
        model = self._shelf.find(self._model)
        with self._lock:
            return {
                "sd_model_checkpoint": self._shelf.title(model),
                "sd_checkpoint_hash": self._shelf.hash(model),
                **self._values,
                **IGNORED,
                "enable_pnginfo": self._metadata,
            }

    def set(self, given: Mapping[str, Any]) -> None:
        """Change settings; all of them are checked before one is changed.

        Raises:
            UnknownName: there is no such model.
            RequestError: a value is not allowed.
            Refused: a setting would change pictures in a way that is not supported.
        """
        checked = check(given, self._shelf)
        model = checked.pop("sd_model_checkpoint", None)
        with self._lock:
            if model is not None:
                self._model = model
            self._values |= checked

    def with_overrides(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings for one request, ``sd_model_checkpoint`` as a model's name or None."""
        checked = check(given, self._shelf)
        with self._lock:
            return {"sd_model_checkpoint": self._model, **self._values, **checked}


def check(given: Mapping[str, Any], shelf: Shelf) -> dict[str, Any]:
    """Settings that mean something, checked and spelled as they are kept.

    Unknown ones are left out, as A1111 does with those of extensions that are not installed.
    """
    found: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        if name in ("sd_model_checkpoint", "sd_checkpoint_hash"):
            if value != "":
                found["sd_model_checkpoint"] = _model(_text(name, value), shelf).name
        elif name in CHECKS:
            found[name] = CHECKS[name](name, value)
        elif name in FIXED and value != IGNORED[name]:
            raise unsupported(f"{name} = {str(value)[:40]!r}")
    return found


def _model(text: str, shelf: Shelf) -> Model:
    return shelf.find(text)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > 1000:
        raise RequestError(f"{name} is no text")
    return value


def _whole(low: int, high: int) -> Callable[[str, Any], int]:
    def read(name: str, value: Any) -> int:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not low <= value <= high or value != int(value):
            raise RequestError(
                f"{name} {str(value)[:40]!r} is not a whole number from {low} to {high}"
            )
        return int(value)

    return read


def _format(name: str, value: Any) -> str:
    text = _text(name, value).lower().removeprefix(".")
    if text not in FORMATS:
        raise Refused(422, f"{name} {text[:40]!r} is none of {', '.join(FORMATS)}", "unknown_name")
    return FORMATS[text]


def _vae(name: str, value: Any) -> str:
    text = _text(name, value)
    if text.strip().casefold() not in NO_VAE:
        raise unsupported(f"{name} {text[:80]!r}", "the model's own VAE is used")
    return "Automatic"


CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "CLIP_stop_at_last_layers": _whole(1, 12),
    "samples_format": _format,
    "randn_source": lambda name, value: RNGS[find_rng(_text(name, value), name)],
    "emphasis": lambda name, value: find_emphasis(_text(name, value), name),
    "eta_noise_seed_delta": _whole(0, 2**32 - 1),
    "jpeg_quality": _whole(1, 100),
    "sd_vae": _vae,
}
"""How the values of settings that mean something are read."""
