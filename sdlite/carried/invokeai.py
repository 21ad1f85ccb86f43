"""InvokeAI's metadata: PNG chunks ``invokeai_metadata`` and, before version 3, ``sd-metadata``."""

from __future__ import annotations

from typing import Any

from sdlite.carried.base import Carried, fields_of, load_json, lora_tag, model_name
from sdlite.errors import RequestError
from sdlite.metadata import Parameters

SCHEDULERS = {
    "dpmpp_2s": "DPM++ 2S a",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_sde": "DPM++ SDE",
    "kdpm_2": "DPM2",
    "kdpm_2_a": "DPM2 a",
    "pndm": "PLMS",
}
"""Names that are not spelled so elsewhere; ``_k`` at the end is Karras' schedule."""
PLAIN = "Uniform"
"""What diffusers' schedulers use unless told otherwise, nearly."""
LEFT_OUT = {
    "controlnets": "ControlNet",
    "ipAdapters": "IP-Adapter",
    "t2iAdapters": "T2I-Adapter",
    "hrf_enabled": "its high resolution fix",
    "seamless_x": "seamless tiling",
    "seamless_y": "seamless tiling",
    "refiner_model": "the refiner",
}


def read_metadata(text: str) -> Carried:
    """What ``invokeai_metadata`` says; raises ``RequestError``."""
    found = load_json(text, "InvokeAI's metadata")
    if not isinstance(found, dict):
        raise RequestError("InvokeAI's metadata is no object")
    problems = [
        f"it used {what}, which is not followed" for key, what in LEFT_OUT.items() if found.get(key)
    ]
    if "positive_prompt" not in found:
        raise RequestError(
            "InvokeAI's metadata has no positive_prompt; it has " + ", ".join(sorted(found)[:8])
        )
    mode = str(found.get("generation_mode") or "")
    strength = found.get("strength") if "img2img" in mode or "paint" in mode else None
    if "paint" in mode:
        problems.append(f"it was made by {mode}, with a mask that it does not carry")
    if found.get("rand_device") not in (None, "cpu"):
        rng = "GPU"
    else:
        rng = "CPU"
    sampler, schedule = _scheduler(found.get("scheduler"))
    skip = found.get("clip_skip")
    version = str(found.get("app_version") or "")
    tags = [tag for tag in map(_lora, _list(found.get("loras"))) if tag]
    fields = fields_of(
        {
            "Steps": found.get("steps"),
            "Sampler": sampler,
            "Schedule type": schedule,
            "CFG scale": found.get("cfg_scale"),
            "Seed": found.get("seed"),
            "Size-1": found.get("width"),
            "Size-2": found.get("height"),
            "Model": _name(found.get("model")),
            "VAE": _name(found.get("vae")),
            "Clip skip": skip + 1 if isinstance(skip, int) and skip > 0 else None,
            "Denoising strength": strength,
            "Guidance rescale": found.get("cfg_rescale_multiplier") or None,
            "RNG": rng,
            "Emphasis": "compel",
            "Version": f"InvokeAI {version}".strip(),
        }
    )
    prompt = str(found["positive_prompt"] or "") + "".join(f" {tag}" for tag in tags)
    return Carried(
        "InvokeAI",
        Parameters(prompt, str(found.get("negative_prompt") or ""), fields),
        tuple(dict.fromkeys(problems)),
    )


def read_old(text: str) -> Carried:
    """What ``sd-metadata`` says; raises ``RequestError``."""
    found = load_json(text, "InvokeAI's sd-metadata")
    image = found.get("image") if isinstance(found, dict) else None
    if not isinstance(image, dict):
        raise RequestError("InvokeAI's sd-metadata describes no image")
    parts = image.get("prompt")
    if isinstance(parts, list):
        words = [str(part.get("prompt", "")) for part in parts if isinstance(part, dict)]
        prompt = " ".join(words)
    else:
        prompt = str(parts or "")
    prompt, negative = _split(prompt)
    problems = []
    if image.get("type") not in (None, "txt2img"):
        problems.append(f"it was made by {image['type']}")
    if image.get("threshold") or image.get("perlin"):
        problems.append("threshold and perlin noise are not followed")
    sampler, schedule = _scheduler(image.get("sampler"))
    if schedule is None and str(image.get("sampler", "")).startswith("k_"):
        schedule = "Karras"
    fields = fields_of(
        {
            "Steps": image.get("steps"),
            "Sampler": sampler,
            "Schedule type": schedule,
            "CFG scale": image.get("cfg_scale"),
            "Seed": image.get("seed"),
            "Size-1": image.get("width"),
            "Size-2": image.get("height"),
            "Model": model_name(found.get("model_weights")),
            "Denoising strength": image.get("strength"),
            "RNG": "CPU",
            "Emphasis": "compel",
            "Version": f"InvokeAI {found.get('app_version') or ''}".strip(),
        }
    )
    return Carried("InvokeAI", Parameters(prompt, negative, fields), tuple(problems))


def _split(prompt: str) -> tuple[str, str]:
    """Before version 3 what stands in square brackets was the negative prompt."""
    kept, left_out = [], []
    rest = prompt
    while "[" in rest and "]" in rest.partition("[")[2]:
        before, _, rest = rest.partition("[")
        inside, _, rest = rest.partition("]")
        kept.append(before)
        left_out.append(inside)
    return " ".join("".join([*kept, rest]).split()), ", ".join(left_out)


def _scheduler(value: object) -> tuple[str | None, str | None]:
    if not isinstance(value, str):
        return None, None
    name = value.removesuffix("_k")
    schedule = "Karras" if name != value else None
    return SCHEDULERS.get(name, name), schedule


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _name(value: object) -> str | None:
    """A model's name, in the forms of versions 3 and later."""
    if isinstance(value, dict):
        return model_name(value.get("name") or value.get("model_name"))
    return model_name(value)


def _lora(value: object) -> str | None:
    if not isinstance(value, dict):
        return None
    name = _name(value.get("model") or value.get("lora"))
    return None if name is None else lora_tag(name, value.get("weight"))
