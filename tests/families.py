"""Tiny checkpoints of every family: the numbers of ``tests.tiny`` changed where families differ."""

from __future__ import annotations

from dataclasses import replace

from sdlite.manifest import NoiseTable
from tests.tiny import TEXT, UNET, VAE, Tiny

OPEN_CLIP = replace(TEXT, activation="gelu", layers=3)
TEXT_2 = replace(OPEN_CLIP, hidden_size=24, heads=3, projection=20, norm_skipped=False)
"""SDXL's second encoder, used without the final norm."""
XL_UNET = replace(
    UNET,
    block_channels=(8, 16, 16),
    layers_per_block=2,
    down_attention=(False, True, True),
    up_attention=(True, True, False),
    heads=(1, 2, 2),
    transformer_depth=(1, 1, 3),
    cross_dim=40,
    linear_projection=True,
    label_dim=20 + 6 * 8,
    size_dim=8,
)
XL_VAE = replace(VAE, scale=0.13025, force_upcast=True)
XL_TEXT = replace(TEXT, layers=3, norm_skipped=False)

SD2 = Tiny(text=OPEN_CLIP, unet=replace(UNET, linear_projection=True, heads=(1, 2)), seed=10)
SD2_V = replace(SD2, prediction="v_prediction", seed=11)
SD2_ZERO_SNR = replace(SD2_V, zero_snr=True, seed=12)
SDXL = Tiny(text=XL_TEXT, text_2=TEXT_2, unet=XL_UNET, vae=XL_VAE, seed=13)
REFINER = Tiny(
    text=None,
    text_2=TEXT_2,
    unet=replace(
        XL_UNET,
        block_channels=(12, 12, 24, 24),
        down_attention=(False, True, True, False),
        up_attention=(False, True, True, False),
        heads=(1, 1, 2, 2),
        transformer_depth=(2, 2, 2, 2),
        cross_dim=24,
        label_dim=20 + 5 * 8,
    ),
    vae=XL_VAE,
    seed=14,
)
PRUNED = replace(
    SDXL,
    unet=replace(
        XL_UNET,
        transformer_depth=(1, (2, 1), (1, 2)),
        up_transformer_depth=((1, 2, 4), (2, 1, 1), 1),
        middle="resnet",
    ),
    seed=15,
)
"""As SSD-1B: fewer transformer blocks here and there, one ResNet in the middle."""
HEADLESS = replace(SDXL, unet=replace(XL_UNET, layers_per_block=1, middle="none"), seed=16)
"""As the smallest KOALA: nothing in the middle."""
LCM = Tiny(unet=replace(UNET, guidance_dim=12), seed=17)
INPAINT = Tiny(unet=replace(UNET, in_channels=9), seed=18)
EDIT = Tiny(unet=replace(UNET, in_channels=8), seed=19)
XL_INPAINT = replace(SDXL, unet=replace(XL_UNET, in_channels=9), seed=20)
UPSCALE = Tiny(
    text=OPEN_CLIP,
    unet=replace(
        UNET,
        in_channels=7,
        block_channels=(8, 12, 16),
        down_attention=(False, True, True),
        up_attention=(True, True, False),
        heads=(2, 2, 2),
        transformer_depth=(1, 1, 1),
        linear_projection=True,
        class_embeds=400,
        cross_only=(False, True, False),
    ),
    vae=replace(VAE, block_channels=(4, 8, 8), scale=0.08333),
    prediction="v_prediction",
    noise=NoiseTable("scaled_linear", 0.0001, 0.02, 1000),
    low_res=NoiseTable("scaled_linear", 0.0001, 0.02, 1000),
    seed=21,
)
"""As the x4 upscaler: an autoencoder of factor 4, and attention to the text alone but in the
coarsest resolution."""

FAMILIES = {
    "sd2": SD2,
    "sd2 v": SD2_V,
    "sd2 zero snr": SD2_ZERO_SNR,
    "sdxl": SDXL,
    "refiner": REFINER,
    "pruned": PRUNED,
    "headless": HEADLESS,
    "lcm": LCM,
    "inpaint": INPAINT,
    "edit": EDIT,
    "xl inpaint": XL_INPAINT,
    "upscale": UPSCALE,
}
