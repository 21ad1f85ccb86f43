"""ComfyUI's graphs: the job as nodes that name each other, in PNG chunks ``prompt`` and
``workflow``.

The sampler that makes the saved picture is found, and what leads to it is followed back. Nodes that
are not known are named, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sdlite.carried.base import Carried, fields_of, load_json, lora_tag, model_name
from sdlite.errors import RequestError
from sdlite.metadata import Parameters

SAMPLERS = ("KSampler", "KSamplerAdvanced")
SAVERS = ("SaveImage", "PreviewImage", "SaveImageWebsocket")
LOADERS = ("CheckpointLoaderSimple", "CheckpointLoader", "unCLIPCheckpointLoader")
PASSING = ("Reroute", "ModelSamplingDiscrete", "FreeU", "FreeU_V2", "PatchModelAddDownscale")
"""Models pass through these; all but the first change them."""
WIDGETS = {
    "KSampler": ("seed", None, "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "KSamplerAdvanced": (
        *("add_noise", "noise_seed", None, "steps", "cfg", "sampler_name", "scheduler"),
        *("start_at_step", "end_at_step", "return_with_leftover_noise"),
    ),
    "CLIPTextEncode": ("text",),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "LoraLoader": ("lora_name", "strength_model", "strength_clip"),
    "LoraLoaderModelOnly": ("lora_name", "strength_model"),
    "EmptyLatentImage": ("width", "height", "batch_size"),
    "CLIPSetLastLayer": ("stop_at_clip_layer",),
    "VAELoader": ("vae_name",),
    "LatentUpscale": ("upscale_method", "width", "height", "crop"),
    "LatentUpscaleBy": ("upscale_method", "scale_by"),
    "LoadImage": ("image",),
}
"""Values that the interface's form lists without names, in its order; None is not needed."""
MOST_NODES = 5000
MOST_STEPS = 200
"""Nodes followed in a row: graphs of people have tens."""


@dataclass
class _Graph:
    """Nodes by id, in the form the server takes: ``{"class_type": ..., "inputs": {...}}``."""

    nodes: Mapping[str, Any]
    problems: list[str] = field(default_factory=list)

    def node(self, link: object) -> tuple[str, dict[str, Any]] | None:
        """The node a link leads to: its class and its inputs."""
        if not isinstance(link, list) or not link:
            return None
        found = self.nodes.get(str(link[0]))
        if not isinstance(found, dict) or not isinstance(found.get("inputs"), dict):
            return None
        return str(found.get("class_type")), found["inputs"]

    def value(self, inputs: Mapping[str, Any], name: str) -> object:
        """An input's value, also where another node holds it."""
        value = inputs.get(name)
        for _ in range(MOST_STEPS):
            led = self.node(value)
            if led is None:
                return None if isinstance(value, list) else value
            keys = (name, "value", "text", "string", "int", "float", "seed")
            value = next((led[1][key] for key in keys if key in led[1]), None)
        return None

    def tell(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)


def read_prompt(text: str) -> Carried:
    """What the chunk ``prompt`` says; raises ``RequestError``."""
    nodes = load_json(text, "ComfyUI's 'prompt'")
    if not isinstance(nodes, dict) or not all(isinstance(node, dict) for node in nodes.values()):
        raise RequestError("ComfyUI's 'prompt' is no graph of nodes")
    return _read(_Graph(nodes))


def read_workflow(text: str) -> Carried:
    """What the chunk ``workflow`` says, where it is alone; raises ``RequestError``."""
    found = load_json(text, "ComfyUI's 'workflow'")
    listed = found.get("nodes") if isinstance(found, dict) else None
    if not isinstance(listed, list):
        raise RequestError("ComfyUI's 'workflow' has no nodes")
    links = {
        link[0]: [str(link[1]), link[2]]
        for link in found.get("links") or []
        if isinstance(link, list) and len(link) >= 5 and isinstance(link[0], int)
    }
    nodes: dict[str, Any] = {}
    for node in listed[:MOST_NODES]:
        if not isinstance(node, dict) or node.get("mode") in (2, 4):  # muted, bypassed
            continue
        kind = str(node.get("type"))
        inputs: dict[str, Any] = {}
        values = node.get("widgets_values")
        if isinstance(values, list):
            for name, value in zip(WIDGETS.get(kind, ()), values, strict=False):
                if name is not None:
                    inputs[name] = value
        for taken in node.get("inputs") or []:
            if isinstance(taken, dict) and taken.get("link") in links:
                inputs[str(taken.get("name"))] = links[taken["link"]]
        nodes[str(node.get("id"))] = {"class_type": kind, "inputs": inputs}
    return _read(_Graph(nodes))


def _read(graph: _Graph) -> Carried:
    if len(graph.nodes) > MOST_NODES:
        raise RequestError(f"ComfyUI's graph has {len(graph.nodes)} nodes, {MOST_NODES} are read")
    found = _samplers(graph)
    if not found:
        kinds = sorted({str(node.get("class_type")) for node in graph.nodes.values()})
        raise RequestError(
            "ComfyUI's graph has no KSampler that leads to its picture; it has "
            f"{', '.join(kinds[:8])}"
        )
    sampler = found[-1]
    if len(found) > 1:
        graph.tell(
            f"{len(found)} samplers run one after the other; the first one's picture is drawn"
        )
    kind, inputs = sampler
    prompts = [_prompt(graph, inputs.get(side)) for side in ("positive", "negative")]
    model = _model(graph, inputs.get("model"))
    skip = _clip_skip(graph, inputs.get("positive"))
    latent = _latent(graph, inputs)
    seed = graph.value(inputs, "noise_seed" if kind == "KSamplerAdvanced" else "seed")
    if kind == "KSamplerAdvanced" and graph.value(inputs, "start_at_step") not in (0, None):
        graph.tell("it begins at a later step; all steps are drawn")
    name = str(graph.value(inputs, "sampler_name") or "")
    if any(part in name for part in ("ancestral", "sde", "2s_a", "lcm")):
        graph.tell("noise that samplers add comes from another generator in ComfyUI")
    fields = fields_of(
        {
            "Steps": graph.value(inputs, "steps"),
            "Sampler": name,
            "Schedule type": graph.value(inputs, "scheduler"),
            "CFG scale": graph.value(inputs, "cfg"),
            "Seed": seed,
            "Model": model.pop("model", None),
            "VAE": model.pop("vae", None),
            "Clip skip": skip,
            "RNG": "CPU",
            "Emphasis": "ComfyUI",
            "Version": "ComfyUI",
            **latent,
        }
    )
    loras = "".join(f" {tag}" for tag in model.pop("loras", []))
    return Carried(
        "ComfyUI", Parameters(prompts[0] + loras, prompts[1], fields), tuple(graph.problems)
    )


def _samplers(graph: _Graph) -> list[tuple[str, dict[str, Any]]]:
    """Samplers on the way to the saved picture, the last one first."""
    ends = [
        node["inputs"]
        for node in graph.nodes.values()
        if node.get("class_type") in SAVERS and isinstance(node.get("inputs"), dict)
    ]
    found: list[tuple[str, dict[str, Any]]] = []
    seen: set[int] = set()
    pending = [inputs.get("images") for inputs in ends[:1]]
    while pending and len(seen) < MOST_NODES:
        led = graph.node(pending.pop(0))
        if led is None or id(led[1]) in seen:
            continue
        seen.add(id(led[1]))
        kind, inputs = led
        if kind in SAMPLERS:
            found.append(led)
            pending.append(inputs.get("latent_image"))
            continue
        if kind == "ImageUpscaleWithModel" or kind.startswith(("LatentUpscale", "ImageScale")):
            graph.tell(f"{kind}: the picture was enlarged on the way; that is not repeated")
        pending += [
            value
            for name, value in inputs.items()
            if name in ("samples", "pixels", "image", "images", "latent", "latent_image")
        ]
    return found


def _prompt(graph: _Graph, link: object) -> str:
    """The text behind a conditioning."""
    for _ in range(MOST_STEPS):
        led = graph.node(link)
        if led is None:
            return ""
        kind, inputs = led
        if "text" in inputs or kind == "CLIPTextEncode":
            return str(graph.value(inputs, "text") or "")
        if "text_g" in inputs:
            first, second = (str(graph.value(inputs, k) or "") for k in ("text_g", "text_l"))
            if first != second:
                graph.tell("the two text encoders got different prompts; the first is taken")
            return first
        if kind == "ConditioningZeroOut":
            return ""
        onward = next(
            (name for name in ("conditioning", "conditioning_1", "positive") if name in inputs),
            None,
        )
        if kind != "Reroute":
            graph.tell(f"{kind}, which is not known, changes a prompt; it is left out")
        link = inputs.get(onward) if onward else next(iter(inputs.values()), None)
    return ""


def _clip_skip(graph: _Graph, link: object) -> int | None:
    for _ in range(MOST_STEPS):
        led = graph.node(link)
        if led is None:
            return None
        kind, inputs = led
        if kind == "CLIPSetLastLayer":
            layer = graph.value(inputs, "stop_at_clip_layer")
            return -layer if isinstance(layer, int) and -12 <= layer <= -2 else None
        link = inputs.get("clip", inputs.get("conditioning"))
    return None


def _model(graph: _Graph, link: object) -> dict[str, Any]:
    """Checkpoint, LoRAs and VAE behind a sampler's model."""
    found: dict[str, Any] = {"loras": []}
    for _ in range(MOST_STEPS):
        led = graph.node(link)
        if led is None:
            break
        kind, inputs = led
        if kind in LOADERS or "ckpt_name" in inputs:
            found["model"] = model_name(graph.value(inputs, "ckpt_name"))
            break
        if "lora_name" in inputs:
            strengths = [graph.value(inputs, f"strength_{part}") for part in ("model", "clip")]
            if kind == "LoraLoaderModelOnly":
                strengths[1] = 0.0
            found["loras"].insert(0, lora_tag(graph.value(inputs, "lora_name"), *strengths))
        elif kind == "UNETLoader":
            found["model"] = model_name(graph.value(inputs, "unet_name"))
            break
        elif kind != "Reroute":
            graph.tell(f"{kind} changes the model; it is left out")
        link = inputs.get("model", next(iter(inputs.values()), None))
    for node in graph.nodes.values():
        if node.get("class_type") == "VAELoader" and isinstance(node.get("inputs"), dict):
            found["vae"] = graph.value(node["inputs"], "vae_name")
    return found


def _latent(graph: _Graph, inputs: Mapping[str, Any]) -> dict[str, object]:
    """Size, or strength where it began with a picture."""
    link = inputs.get("latent_image")
    for _ in range(MOST_STEPS):
        led = graph.node(link)
        if led is None:
            break
        kind, taken = led
        if {"width", "height"} <= set(taken) and "samples" not in taken:
            sides = [graph.value(taken, side) for side in ("width", "height")]
            return {"Size-1": sides[0], "Size-2": sides[1]}
        if kind in ("VAEEncode", "VAEEncodeForInpaint", "SetLatentNoiseMask"):
            if kind != "VAEEncode":
                graph.tell("it was painted within a mask, which is not followed")
            return _begun(graph, inputs)
        if kind != "Reroute":
            graph.tell(f"{kind} made the first latents; it is left out")
        link = taken.get("samples", taken.get("latent"))
    return {}


def _begun(graph: _Graph, inputs: Mapping[str, Any]) -> dict[str, object]:
    """ComfyUI runs ``steps`` steps, the last of a schedule of steps / denoise."""
    steps, share = graph.value(inputs, "steps"), graph.value(inputs, "denoise")
    share = share if isinstance(share, int | float) and 0 < share < 1 else 1.0
    if not isinstance(steps, int) or isinstance(steps, bool) or share == 1.0:
        return {"Denoising strength": 1.0}
    whole = int(steps / share)
    # A1111 runs int(strength * steps) + 1 of them.
    return {"Steps": whole, "Denoising strength": round((steps - 0.5) / whole, 6)}
