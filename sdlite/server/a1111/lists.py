"""What A1111's clients ask a server for before they draw: samplers, models, memory and so on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdlite import hardware
from sdlite.errors import PackageError
from sdlite.memory import snapshot
from sdlite.server.shelf import HASH_DIGITS

if TYPE_CHECKING:
    from sdlite.server.state import Server

LATENT_MODES = (
    "Latent",
    "Latent (antialiased)",
    "Latent (bicubic)",
    "Latent (bicubic antialiased)",
    "Latent (nearest)",
    "Latent (nearest-exact)",
)
PIXEL_UPSCALERS = ("None", "Lanczos", "Bilinear", "Nearest")


def samplers() -> list[dict[str, Any]]:
    """``GET samplers``."""
    from sdlite.sampling import SAMPLERS

    return [
        {
            "name": info.name,
            "aliases": list(info.aliases),
            "options": {"scheduler": info.default_schedule},
        }
        for info in SAMPLERS
    ]


def schedulers() -> list[dict[str, Any]]:
    """``GET schedulers``."""
    from sdlite.sampling import SCHEDULES

    automatic = {
        "name": "automatic",
        "label": "Automatic",
        "aliases": None,
        "default_rho": -1.0,
        "need_inner_model": False,
    }
    return [
        automatic,
        *(
            {
                "name": info.name,
                "label": info.label,
                "aliases": list(info.aliases) or None,
                "default_rho": {"karras": 7.0, "polyexponential": 1.0}.get(info.name, -1.0),
                "need_inner_model": False,
            }
            for info in SCHEDULES
        ),
    ]


def upscalers() -> list[dict[str, Any]]:
    """``GET upscalers``: ways of resampling, and the networks in the model folders."""
    from sdlite.upscalers.files import installed

    ways = [(name, None, None, 4) for name in PIXEL_UPSCALERS]
    networks = [(file.name, file.kind, str(file.path), file.scale) for file in installed()]
    return [
        {
            "name": name,
            "model_name": kind,
            "model_path": path,
            "model_url": None,
            "scale": scale,
        }
        for name, kind, path, scale in (*ways, *networks)
    ]


def scripts() -> dict[str, list[str]]:
    """``GET scripts``.

    By the script "controlnet m2m" clients see that the extension is there; webuiapi goes on sending
    the units of the call before where it is not. It cannot be used.
    """
    names = ["x/y/z plot", "controlnet m2m", "controlnet"]
    return {"txt2img": names, "img2img": names}


def script_info() -> list[dict[str, Any]]:
    """``GET script-info``; arguments are told by their labels only."""
    plot = ["X type", "X values", "X values", "Y type", "Y values", "Y values", "Z type"]
    plot += ["Z values", "Z values", "Draw legend", "Include Lone Images", "Include Sub Grids"]
    plot += ["Keep -1 for seeds"]
    known = (("x/y/z plot", False, plot), ("controlnet", True, ["ControlNet Unit 0"]))
    return [
        {
            "name": name,
            "is_alwayson": always,
            "is_img2img": image,
            "args": [{"label": label} for label in labels],
        }
        for name, always, labels in known
        for image in (False, True)
    ]


def latent_upscale_modes() -> list[dict[str, str]]:
    """``GET latent-upscale-modes``."""
    return [{"name": name} for name in LATENT_MODES]


def models(server: Server) -> list[dict[str, Any]]:
    """``GET sd-models``; a damaged package is left out."""
    found = []
    for model in server.shelf.models():
        try:
            digest = server.shelf.hash(model)
            title = server.shelf.title(model)
        except PackageError:
            continue
        found.append(
            {
                "title": title,
                "model_name": model.name,
                "hash": digest[:HASH_DIGITS] or None,
                "sha256": digest or None,
                "filename": str(model.path),
                "config": None,
            }
        )
    return found


def loras() -> list[dict[str, Any]]:
    """``GET loras``."""
    from sdlite.assets import assets
    from sdlite.server.a1111.headers import lora_metadata

    found = []
    for item in assets("LoRA"):
        metadata = lora_metadata(item.path)
        alias = str(metadata.get("ss_output_name") or item.name)
        entry = {"name": item.name, "alias": alias, "path": str(item.path), "metadata": metadata}
        found.append(entry)
    return found


def embeddings() -> dict[str, Any]:
    """``GET embeddings``."""
    from sdlite.assets import assets
    from sdlite.server.a1111.headers import embedding_facts

    loaded = {item.name: embedding_facts(item.path) for item in assets("embedding")}
    return {"loaded": loaded, "skipped": {}}


def styles(server: Server) -> list[dict[str, str]]:
    """``GET prompt-styles``."""
    from sdlite.text.styles import read_styles

    path = server.styles_file
    found = read_styles(path) if path.is_file() else {}
    return [
        {"name": style.name, "prompt": style.prompt, "negative_prompt": style.negative_prompt}
        for style in found.values()
    ]


def memory() -> dict[str, Any]:
    """``GET memory``: bytes."""
    total, available = hardware.memory()
    use = snapshot()
    used = None if use is None else use.private_bytes + use.mapped_bytes
    return {
        "ram": {"free": available, "used": used, "total": total},
        "cuda": {"error": "unavailable"},
    }


def flags(server: Server) -> dict[str, Any]:
    """``GET cmd-flags``: what A1111's flags would be."""
    access = server.setup.access
    return {
        "api": True,
        "nowebui": True,
        "api_log": False,
        "api_server_stop": False,
        "ckpt": server.setup.model,
        "cors_allow_origins": ",".join(sorted(access.origins)) or None,
        "lowvram": False,
        "medvram": False,
    }
