"""Bodies of A1111's API. Null means the default, and what is not known is left alone."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from sdlite.server.bodies import Lenient

Number = float
Image = str
"""Base64 of a picture, bare or as a data URL."""


class Drawing(Lenient):
    """Fields of both ways to draw. What is left out is the model's own."""

    prompt: str = ""
    negative_prompt: str = ""
    styles: list[str] = Field(default_factory=list, max_length=100)
    seed: int = Field(-1, ge=-1, lt=2**64)
    subseed: int = Field(-1, ge=-1, lt=2**64)
    subseed_strength: Number = Field(0.0, ge=0, le=1)
    seed_resize_from_h: int = -1
    seed_resize_from_w: int = -1
    sampler_name: str | None = None
    sampler_index: str | None = None
    scheduler: str | None = None
    batch_size: int = Field(1, ge=1)
    n_iter: int = Field(1, ge=1)
    steps: int | None = Field(None, ge=1)
    cfg_scale: Number | None = Field(None, ge=0, le=100)
    width: int | None = Field(None, ge=1)
    height: int | None = Field(None, ge=1)
    restore_faces: bool = False
    tiling: bool = False
    do_not_save_samples: bool = False
    do_not_save_grid: bool = False
    eta: Number | None = None
    denoising_strength: Number | None = Field(None, ge=0, le=1)
    s_min_uncond: Number | None = None
    s_churn: Number | None = None
    s_tmax: Number | None = None
    s_tmin: Number | None = None
    s_noise: Number | None = None
    override_settings: dict[str, Any] = Field(default_factory=dict)
    override_settings_restore_afterwards: bool = True
    refiner_checkpoint: str | None = None
    refiner_switch_at: Number | None = None
    script_name: str | None = None
    script_args: list[Any] = Field(default_factory=list)
    send_images: bool = True
    save_images: bool = False
    alwayson_scripts: dict[str, Any] = Field(default_factory=dict)
    infotext: str | None = None


class Txt2Img(Drawing):
    """``POST /sdapi/v1/txt2img``."""

    enable_hr: bool = False
    firstphase_width: int = 0
    firstphase_height: int = 0
    hr_scale: Number = 2.0
    hr_upscaler: str = "Latent"
    hr_second_pass_steps: int = Field(0, ge=0)
    hr_resize_x: int = Field(0, ge=0)
    hr_resize_y: int = Field(0, ge=0)
    hr_checkpoint_name: str | None = None
    hr_sampler_name: str | None = None
    hr_scheduler: str | None = None
    hr_prompt: str = ""
    hr_negative_prompt: str = ""
    hr_cfg: Number | None = Field(None, ge=0, le=100)


class Img2Img(Drawing):
    """``POST /sdapi/v1/img2img``."""

    init_images: list[Image] = Field(default_factory=list)
    resize_mode: int = Field(0, ge=0, le=3)
    image_cfg_scale: Number | None = Field(None, ge=0, le=100)
    mask: Image | None = None
    mask_blur: Number | None = Field(None, ge=0, le=256)
    mask_blur_x: Number = Field(4, ge=0, le=256)
    mask_blur_y: Number = Field(4, ge=0, le=256)
    mask_round: bool = True
    inpainting_fill: int = Field(0, ge=0, le=3)
    inpaint_full_res: bool = True
    inpaint_full_res_padding: int = Field(0, ge=0, le=4096)
    inpainting_mask_invert: int = Field(0, ge=0, le=1)
    initial_noise_multiplier: Number = 1.0
    latent_mask: Image | None = None
    include_init_images: bool = False


class Extras(Lenient):
    """What both ways to enlarge share."""

    resize_mode: int = Field(0, ge=0, le=1)
    show_extras_results: bool = True
    gfpgan_visibility: Number = Field(0, ge=0, le=1)
    codeformer_visibility: Number = Field(0, ge=0, le=1)
    codeformer_weight: Number = Field(0, ge=0, le=1)
    upscaling_resize: Number = Field(2, gt=0, le=16)
    upscaling_resize_w: int = Field(512, ge=1)
    upscaling_resize_h: int = Field(512, ge=1)
    upscaling_crop: bool = True
    upscaler_1: str = "None"
    upscaler_2: str = "None"
    extras_upscaler_2_visibility: Number = Field(0, ge=0, le=1)
    upscale_first: bool = False


class ExtraSingle(Extras):
    """``POST /sdapi/v1/extra-single-image``."""

    image: Image = ""


class FileData(Lenient):
    """A picture of a batch."""

    data: Image
    name: str = ""


class ExtraBatch(Extras):
    """``POST /sdapi/v1/extra-batch-images``."""

    imageList: list[FileData] = Field(default_factory=list)


class PngInfo(Lenient):
    """``POST /sdapi/v1/png-info``."""

    image: Image


class Interrogate(Lenient):
    """``POST /sdapi/v1/interrogate``."""

    image: Image = ""
    model: str = "clip"


class Settings(BaseModel):
    """``POST /sdapi/v1/options``: settings by name."""

    model_config = ConfigDict(extra="allow")
