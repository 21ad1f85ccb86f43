"""Numbers of the public architectures that random checkpoints are made of, and of small ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sdlite_export.configs import ClipTextConfig, UnetConfig, VaeConfig


@dataclass(frozen=True)
class TextEncoder:
    """One text encoder of an architecture."""

    config: ClipTextConfig
    """Its numbers."""
    prefix: str
    """Prefix in a single file."""
    open_clip: bool = False
    """Named as OpenCLIP does in the single file."""

    def in_folder(self, alone: bool) -> ClipTextConfig:
        """Its numbers in a diffusers folder: SD2's is there without its last layer."""
        if self.open_clip and alone:
            return replace(self.config, layers=self.config.layers - 1, projection=None)
        return self.config if self.open_clip else replace(self.config, projection=None)


@dataclass(frozen=True)
class Architecture:
    """Everything that fixes names and shapes of a checkpoint."""

    name: str
    """Name on the command line."""
    unet: UnetConfig
    """U-Net."""
    vae: VaeConfig
    """Autoencoder."""
    text: tuple[TextEncoder, ...]
    """Text encoders, in order."""
    first_encoder: int = 1
    """Number of the first text encoder: 2 where there is only SDXL's second."""
    label_width: int | None = None
    """Width of SDXL's vector conditioning."""
    prediction: str = "epsilon"
    """What the U-Net predicts."""
    size: int = 512
    """Default width and height, pixels."""
    betas: tuple[float, float] = (0.00085, 0.012)
    """First and last of the noise schedule."""
    top_level: bool = True
    """Whether the file carries the noise schedule's buffers."""

    def suffix(self, index: int) -> str:
        """What the name of a text encoder ends in."""
        number = self.first_encoder + index
        return "" if number == 1 else f"_{number}"

    @property
    def alone(self) -> bool:
        """Whether there is the first text encoder only, whose last layer SD2 leaves out."""
        return len(self.text) == 1 and self.first_encoder == 1


def _small(
    encoder: TextEncoder, *, width: int, inner: int, heads: int, projection: int
) -> TextEncoder:
    """An encoder of the same kind with three layers."""
    config = replace(
        encoder.config,
        hidden_size=width,
        intermediate_size=inner,
        layers=3,
        heads=heads,
        projection=projection,
    )
    return replace(encoder, config=config)


VAE = VaeConfig(3, 3, 4, (128, 256, 512, 512), 2)
CLIP_L = ClipTextConfig(49408, 768, 3072, 12, 12)
SD15 = Architecture(
    name="sd15",
    unet=UnetConfig(
        in_channels=4,
        out_channels=4,
        block_channels=(320, 640, 1280, 1280),
        layers_per_block=2,
        down_attention=(True, True, True, False),
        up_attention=(False, True, True, True),
        heads=(8, 8, 8, 8),
        transformer_depth=(1, 1, 1, 1),
        cross_dim=768,
    ),
    vae=VAE,
    text=(TextEncoder(CLIP_L, "cond_stage_model.transformer."),),
)
SD21 = replace(
    SD15,
    name="sd21",
    unet=replace(SD15.unet, heads=(5, 10, 20, 20), cross_dim=1024, linear_projection=True),
    text=(
        TextEncoder(
            ClipTextConfig(49408, 1024, 4096, 24, 16, activation="gelu", projection=1024),
            "cond_stage_model.model.",
            open_clip=True,
        ),
    ),
    prediction="v_prediction",
    size=768,
)
SDXL = Architecture(
    name="sdxl",
    unet=UnetConfig(
        in_channels=4,
        out_channels=4,
        block_channels=(320, 640, 1280),
        layers_per_block=2,
        down_attention=(False, True, True),
        up_attention=(True, True, False),
        heads=(5, 10, 20),
        transformer_depth=(1, 2, 10),
        cross_dim=2048,
        linear_projection=True,
    ),
    vae=replace(VAE, scale=0.13025),
    text=(
        TextEncoder(CLIP_L, "conditioner.embedders.0.transformer."),
        TextEncoder(
            ClipTextConfig(49408, 1280, 5120, 32, 20, activation="gelu", projection=1280),
            "conditioner.embedders.1.model.",
            open_clip=True,
        ),
    ),
    label_width=2816,
    size=1024,
)
REFINER = replace(
    SDXL,
    name="refiner",
    unet=replace(
        SDXL.unet,
        block_channels=(384, 768, 1536, 1536),
        down_attention=(False, True, True, False),
        up_attention=(False, True, True, False),
        heads=(6, 12, 24, 24),
        transformer_depth=(4, 4, 4, 4),
        cross_dim=1280,
    ),
    text=(replace(SDXL.text[1], prefix="conditioner.embedders.0.model."),),
    first_encoder=2,
    label_width=2560,
)
SD15_SMALL = replace(
    SD15,
    name="sd15-small",
    unet=replace(SD15.unet, block_channels=(32, 64, 64, 64), cross_dim=64),
    vae=replace(VAE, block_channels=(32, 32, 64, 64)),
    text=(TextEncoder(ClipTextConfig(49408, 64, 256, 2, 1), "cond_stage_model.transformer."),),
    size=64,
)
SMALL_VAE = SD15_SMALL.vae
SD21_SMALL = replace(
    SD21,
    name="sd21-small",
    unet=replace(SD21.unet, block_channels=(64, 64, 128, 128), heads=(1, 1, 2, 2), cross_dim=64),
    vae=SMALL_VAE,
    text=(_small(SD21.text[0], width=64, inner=256, heads=1, projection=64),),
    size=64,
)
SDXL_SMALL = replace(
    SDXL,
    name="sdxl-small",
    unet=replace(
        SDXL.unet,
        block_channels=(64, 64, 128),
        heads=(1, 1, 2),
        transformer_depth=(1, 2, 3),
        cross_dim=192,
    ),
    vae=replace(SMALL_VAE, scale=SDXL.vae.scale),
    text=(
        replace(SDXL.text[0], config=SD15_SMALL.text[0].config),
        _small(SDXL.text[1], width=128, inner=512, heads=2, projection=96),
    ),
    label_width=96 + 6 * 256,
    size=64,
)
X4 = replace(
    SD21,
    name="x4",
    unet=replace(
        SD21.unet,
        in_channels=7,
        block_channels=(256, 512, 512, 1024),
        down_attention=(False, True, True, True),
        up_attention=(True, True, True, False),
        heads=(8, 8, 8, 8),
        class_embeds=1000,
        cross_only=(False, True, True, False),
    ),
    vae=replace(VAE, block_channels=(128, 256, 512), scale=0.08333),
    size=512,
    betas=(0.0001, 0.02),
)
"""The x4 upscaler."""
X4_SMALL = replace(
    X4,
    name="x4-small",
    unet=replace(X4.unet, block_channels=(32, 64, 96, 128), cross_dim=128),
    vae=replace(X4.vae, block_channels=(32, 32, 64)),
    text=(_small(X4.text[0], width=128, inner=256, heads=2, projection=64),),
    size=64,
)
ARCHITECTURES = {
    arch.name: arch
    for arch in (SD15, SD21, SDXL, REFINER, X4, SD15_SMALL, SD21_SMALL, SDXL_SMALL, X4_SMALL)
}
