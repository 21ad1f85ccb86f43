"""What other programs write into pictures, read in A1111's terms."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdlite.carried.read import carried_by, read_carried
from sdlite.errors import RequestError


def png(**chunks: Any) -> Image.Image:
    info = PngInfo()
    for name, value in chunks.items():
        name = name.replace("__", "-")
        info.add_text(name, value if isinstance(value, str) else json.dumps(value))
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "PNG", pnginfo=info)
    return Image.open(io.BytesIO(stream.getvalue()))


def comfy(**change: Any) -> dict[str, Any]:
    """A graph as ComfyUI's default one, with a LoRA and clip skip."""
    nodes: dict[str, Any] = {
        "3": {
            "class_type": "KSampler",
            "inputs": {
                "seed": 156680208700286,
                "steps": 20,
                "cfg": 8.0,
                "sampler_name": "dpmpp_2m",
                "scheduler": "karras",
                "denoise": 1.0,
                "model": ["10", 0],
                "positive": ["6", 0],
                "negative": ["7", 0],
                "latent_image": ["5", 0],
            },
        },
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd/dream 8.ckpt"}},
        "5": {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": 512, "height": 768, "batch_size": 1},
        },
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["12", 0], "clip": ["11", 0]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "ugly", "clip": ["11", 0]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "x"}},
        "10": {
            "class_type": "LoraLoader",
            "inputs": {
                "lora_name": "ink.safetensors",
                "strength_model": 0.8,
                "strength_clip": 0.5,
                "model": ["4", 0],
                "clip": ["4", 1],
            },
        },
        "11": {
            "class_type": "CLIPSetLastLayer",
            "inputs": {"stop_at_clip_layer": -2, "clip": ["10", 1]},
        },
        "12": {"class_type": "PrimitiveString", "inputs": {"value": "a (castle:1.2)"}},
    }
    for name, inputs in change.items():
        nodes[name.strip("n")]["inputs"].update(inputs)
    return nodes


def test_comfyui_graph() -> None:
    found = carried_by(png(prompt=comfy(), workflow={"nodes": []}))
    assert (found.program, found.problems) == ("ComfyUI", ())
    assert found.parameters.prompt == "a (castle:1.2) <lora:ink:0.5:0.8>"
    assert found.parameters.negative_prompt == "ugly"
    assert dict(found.parameters.fields) == {
        "Steps": "20",
        "Sampler": "dpmpp_2m",
        "Schedule type": "karras",
        "CFG scale": "8",
        "Seed": "156680208700286",
        "Size-1": "512",
        "Size-2": "768",
        "Model": "dream 8",
        "Clip skip": "2",
        "RNG": "CPU",
        "Emphasis": "ComfyUI",
        "Version": "ComfyUI",
    }


def test_comfyui_from_a_picture() -> None:
    nodes = comfy(n3={"latent_image": ["20", 0], "denoise": 0.5, "sampler_name": "euler_ancestral"})
    nodes["20"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["21", 0], "vae": ["4", 2]}}
    nodes["21"] = {"class_type": "LoadImage", "inputs": {"image": "photo.png"}}
    found = carried_by(png(prompt=nodes))
    # 20 steps are the last of 40: A1111's int(strength * 40) + 1.
    assert found.parameters.fields["Steps"] == "40"
    strength = float(found.parameters.fields["Denoising strength"])
    assert int(strength * 40) + 1 == 20
    assert "Size-1" not in found.parameters.fields
    assert any("another generator" in problem for problem in found.problems)


def test_comfyui_nodes_that_are_not_known_are_named() -> None:
    nodes = comfy(n3={"positive": ["30", 0], "model": ["31", 0]}, n9={"images": ["32", 0]})
    control = {"conditioning": ["6", 0], "strength": 1.0, "control_net": ["9", 0]}
    nodes["30"] = {"class_type": "ControlNetApply", "inputs": control}
    nodes["31"] = {"class_type": "FreeU", "inputs": {"model": ["10", 0], "b1": 1.1}}
    nodes["32"] = {"class_type": "ImageUpscaleWithModel", "inputs": {"image": ["8", 0]}}
    found = carried_by(png(prompt=nodes))
    assert found.parameters.prompt.startswith("a (castle:1.2) <lora:ink")
    told = "; ".join(found.problems)
    assert "ControlNetApply, which is not known, changes a prompt" in told
    assert "FreeU changes the model" in told and "enlarged on the way" in told
    nodes = comfy(n9={"images": ["42", 0]})
    second = dict(nodes["3"]["inputs"], latent_image=["41", 0], steps=9)
    nodes["40"] = {"class_type": "KSampler", "inputs": second}
    nodes["41"] = {"class_type": "LatentUpscaleBy", "inputs": {"samples": ["3", 0], "scale_by": 2}}
    nodes["42"] = {"class_type": "VAEDecode", "inputs": {"samples": ["40", 0]}}
    found = carried_by(png(prompt=nodes))
    assert found.parameters.fields["Steps"] == "20"
    assert "2 samplers run one after the other" in "; ".join(found.problems)


def test_comfyui_interface_form_alone() -> None:
    workflow = {
        "nodes": [
            {
                "id": 3,
                "type": "KSampler",
                "widgets_values": [7, "randomize", 12, 6.5, "euler", "normal", 1],
                "inputs": [
                    {"name": "model", "link": 1},
                    {"name": "positive", "link": 2},
                    {"name": "latent_image", "link": 3},
                ],
            },
            {"id": 4, "type": "CheckpointLoaderSimple", "widgets_values": ["m.safetensors"]},
            {"id": 5, "type": "EmptyLatentImage", "widgets_values": [64, 96, 1]},
            {"id": 6, "type": "CLIPTextEncode", "widgets_values": ["a cat"]},
            {"id": 8, "type": "VAEDecode", "inputs": [{"name": "samples", "link": 4}]},
            {"id": 9, "type": "SaveImage", "inputs": [{"name": "images", "link": 5}]},
        ],
        "links": [
            [1, 4, 0, 3, 0, "MODEL"],
            [2, 6, 0, 3, 1, "CONDITIONING"],
            [3, 5, 0, 3, 3, "LATENT"],
            [4, 3, 0, 8, 0, "LATENT"],
            [5, 8, 0, 9, 0, "IMAGE"],
        ],
    }
    fields = carried_by(png(workflow=workflow)).parameters.fields
    assert (fields["Steps"], fields["CFG scale"], fields["Seed"]) == ("12", "6.5", "7")
    assert (fields["Size-1"], fields["Size-2"], fields["Model"]) == ("64", "96", "m")


def test_invokeai() -> None:
    found = carried_by(
        png(
            invokeai_metadata={
                "app_version": "5.4.0",
                "generation_mode": "txt2img",
                "positive_prompt": "a cat++",
                "negative_prompt": "dog",
                "width": 512,
                "height": 640,
                "seed": 42,
                "rand_device": "cpu",
                "cfg_scale": 7.5,
                "steps": 30,
                "scheduler": "dpmpp_2m_k",
                "clip_skip": 1,
                "model": {"key": "x", "hash": "blake3:1", "name": "Dream", "base": "sd-1"},
                "loras": [{"model": {"name": "ink"}, "weight": 0.7}],
                "controlnets": [{"control_model": {}}],
            }
        )
    )
    assert found.parameters.prompt == "a cat++ <lora:ink:0.7>"
    fields = found.parameters.fields
    assert (fields["Sampler"], fields["Schedule type"]) == ("DPM++ 2M", "Karras")
    assert (fields["Clip skip"], fields["Emphasis"], fields["Model"]) == ("2", "compel", "Dream")
    assert fields["Version"] == "InvokeAI 5.4.0"
    assert found.problems == ("it used ControlNet, which is not followed",)
    old = carried_by(
        png(
            sd__metadata={
                "app_version": "2.3.5",
                "model_weights": "stable-diffusion-1.5",
                "image": {
                    "prompt": [{"prompt": "a cat [ugly, bad] sitting", "weight": 1}],
                    "steps": 50,
                    "cfg_scale": 7.5,
                    "seed": 9,
                    "width": 512,
                    "height": 512,
                    "sampler": "k_euler_a",
                    "type": "txt2img",
                },
            }
        )
    )
    assert (old.parameters.prompt, old.parameters.negative_prompt) == ("a cat sitting", "ugly, bad")
    assert old.parameters.fields["Sampler"] == "k_euler_a"


def test_arguments_of_diffusers() -> None:
    values = {
        "prompt": "a (cat)",
        "negative_prompt": "dog",
        "num_inference_steps": 25,
        "guidance_scale": 7.0,
        "seed": 3,
        "width": 512,
        "height": 512,
        "scheduler": "EulerAncestralDiscreteScheduler",
        "model_id": "runwayml/stable-diffusion-v1-5",
        "eta": 0.3,
    }
    for image in (
        png(parameters=values),
        png(**{name: str(value) for name, value in values.items()}),
    ):
        found = carried_by(image)
        fields = found.parameters.fields
        assert (fields["Steps"], fields["Sampler"]) == ("25", "Euler a")
        assert (fields["Emphasis"], fields["Model"]) == ("None", "stable-diffusion-v1-5")
        assert "arguments that are not followed: eta" in found.problems
    karras = {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True}
    found = carried_by(png(Comment=values | {"scheduler": karras, "clip_skip": 1}))
    assert found.parameters.fields["Sampler"] == "DPM++ 2M"
    assert found.parameters.fields["Schedule type"] == "Karras"
    assert found.parameters.fields["Clip skip"] == "2"


def test_stable_diffusion_cpp_and_a1111_come_first() -> None:
    text = (
        "a cat\nSteps: 20, CFG scale: 7.000000, Guidance: 3.500000, Seed: 42, Size: 512x512, "
        "Model: dream.safetensors, RNG: cuda, Sampler: euler_a karras, Version: "
        "stable-diffusion.cpp"
    )
    found = carried_by(png(parameters=text, prompt=comfy()))
    assert found.program == "A1111's form"
    assert found.parameters.fields["Sampler"] == "euler_a karras"


@pytest.mark.parametrize(
    ("chunks", "words"),
    [
        ({}, "the picture carries no parameters; nothing says how it was made"),
        ({"Software": "GIMP", "Title": "x"}, "InvokeAI or diffusers; it has Software, Title"),
        ({"prompt": "{"}, "ComfyUI's 'prompt' cannot be read"),
        ({"prompt": '{"1": 2}'}, "is no graph of nodes"),
        ({"prompt": {"1": {"class_type": "LoadImage", "inputs": {}}}}, "no KSampler .* LoadImage"),
        ({"workflow": "[]"}, "ComfyUI's 'workflow' has no nodes"),
        ({"invokeai_metadata": "[1]"}, "InvokeAI's metadata is no object"),
        ({"invokeai_metadata": {"seed": 1}}, "has no positive_prompt; it has seed"),
        ({"sd__metadata": {"image": 3}}, "describes no image"),
        ({"Comment": "{bad json"}, "'Comment' cannot be read"),
        ({"prompt": "[" * 100_000}, "InvokeAI or diffusers; it has prompt"),
        ({"prompt": "{" + '"a":[' * 50_000}, "ComfyUI's 'prompt' cannot be read"),
    ],
)
def test_what_cannot_be_read_is_told(chunks: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        carried_by(png(**chunks))


def test_graphs_that_go_in_circles_end() -> None:
    nodes = comfy(n6={"text": ["6", 0]}, n10={"model": ["10", 0]})
    found = carried_by(png(prompt=nodes))
    assert found.parameters.prompt.startswith(" <lora:ink")
    with pytest.raises(RequestError, match="no file"):
        read_carried(Path("none.png"))
