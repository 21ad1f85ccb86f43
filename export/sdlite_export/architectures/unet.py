"""The conditional U-Net of latent diffusion (Rombach et al. 2022), named as diffusers names it."""

from __future__ import annotations

from sdlite_export.configs import UnetConfig
from sdlite_export.ops import Dim, DownsamplingOps, Ops, Value

TRANSFORMER_EPS = 1e-6
LAYER_NORM_EPS = 1e-5


def unet(ops: Ops, config: UnetConfig, pooled: int | None = None) -> None:
    """Build the U-Net; ``pooled`` is the width of SDXL's pooled text.

    Inputs: ``sample`` (batch, in_channels, height, width), ``timestep`` (batch,),
    ``encoder_hidden_states`` (batch, tokens, cross_dim); SDXL also ``text_embeds`` (batch, pooled
    width) and ``time_ids`` (batch, ids), models that know their guidance scale ``timestep_cond``
    (batch, guidance_dim), upscalers ``class_labels`` (batch,), whole noise levels. Output:
    ``out_sample`` (batch, out_channels, height, width). Cuts are allowed after and in the middle of
    every ResNet and transformer.
    """
    _build(Unet(ops, config), pooled)


def downsampled_unet(ops: DownsamplingOps, config: UnetConfig, pooled: int | None = None) -> None:
    """Build the U-Net whose finest self-attentions look at a quarter of their tokens.

    Token downsampling (ToDo, Smith et al. 2024): queries stay, keys and values are those of every
    second row and column. Inputs and output as of ``unet``.
    """
    _build(DownsampledUnet(ops, config), pooled)


def _build(network: Unet, pooled: int | None) -> None:
    ops, config = network.ops, network.config
    x, skips = network.down(ops.conv(network.start(pooled), "conv_in", config.block_channels[0]))
    x = network.up(network.middle(x), skips)
    x = ops.group_norm(x, "conv_norm_out", config.norm_groups, config.norm_eps, silu=True)
    ops.output("out_sample", ops.conv(x, "conv_out", config.out_channels))


class Unet:
    """The stages of a U-Net, in the order they are built; a ControlNet has all but the last."""

    def __init__(self, ops: Ops, config: UnetConfig) -> None:
        self.ops = ops
        self.config = config

    def start(self, pooled: int | None) -> Value:
        """Declare the inputs and build what all blocks are told; returns the noisy latents."""
        ops, config = self.ops, self.config
        sample = ops.input("sample", ("batch", config.in_channels, "height", "width"))
        timestep = ops.input("timestep", ("batch",))
        self.context = ops.input("encoder_hidden_states", ("batch", "tokens", config.cross_dim))
        first = config.block_channels[0]
        emb = ops.timestep_embedding(timestep, first, config.flip_sin_to_cos, config.freq_shift)
        if config.guidance_dim is not None:
            guidance = ops.input("timestep_cond", ("batch", config.guidance_dim))
            emb = ops.add(emb, ops.linear(guidance, "time_embedding.cond_proj", first, bias=False))
        emb = self._mlp(emb, "time_embedding")
        if config.class_embeds is not None:
            level = ops.input("class_labels", ("batch",), "int64")
            rows = config.class_embeds
            emb = ops.add(emb, ops.embedding(level, "class_embedding", rows, 4 * first))
        if config.label_dim is not None:
            emb = ops.add(emb, self._mlp(self._labels(config.label_dim, pooled), "add_embedding"))
        # Every ResNet starts by activating the embedding; once is enough.
        self.emb = ops.silu(emb)
        return sample

    def middle(self, x: Value) -> Value:
        """The blocks at the coarsest resolution."""
        config = self.config
        last = len(config.block_channels) - 1
        if config.middle != "none":
            x = self._resnet(x, "mid_block.resnets.0", config.block_channels[last])
        if depth := config.mid_depth:
            x = self._transformer(x, "mid_block.attentions.0", last, depth, crossed=False)
            x = self._resnet(x, "mid_block.resnets.1", config.block_channels[last])
        return x

    def _labels(self, width: int, pooled: int | None) -> Value:
        """Pooled text beside the embeddings of sizes, as SDXL has them (Podell et al. 2023)."""
        ops, config = self.ops, self.config
        if pooled is None or pooled >= width or (width - pooled) % config.size_dim:
            raise ValueError(
                f"{width} labels are no {pooled} of text and some of {config.size_dim}"
            )
        text = ops.input("text_embeds", ("batch", pooled))
        ids = ops.input("time_ids", ("batch", (width - pooled) // config.size_dim))
        flip, shift = config.flip_sin_to_cos, config.freq_shift
        sizes = ops.timestep_embedding(ids, config.size_dim, flip, shift)
        return ops.concat(text, sizes)

    def _mlp(self, x: Value, name: str) -> Value:
        ops, width = self.ops, 4 * self.config.block_channels[0]
        return ops.linear(
            ops.silu(ops.linear(x, f"{name}.linear_1", width)), f"{name}.linear_2", width
        )

    def down(self, x: Value) -> tuple[Value, list[Value]]:
        """The way down: its end, and everything the way up looks back at."""
        config = self.config
        skips = [x]
        for level, channels in enumerate(config.block_channels):
            name = f"down_blocks.{level}"
            for index in range(config.layers_per_block):
                x = self._resnet(x, f"{name}.resnets.{index}", channels)
                if depth := config.down_depth(level, index):
                    x = self._transformer(x, f"{name}.attentions.{index}", level, depth)
                skips.append(x)
            if level < len(config.block_channels) - 1:
                x = self.ops.conv(
                    x, f"{name}.downsamplers.0.conv", channels, stride=2, size=_size(level + 1)
                )
                skips.append(x)
        return x, skips

    def up(self, x: Value, skips: list[Value]) -> Value:
        """The way up; takes ``skips`` from their end."""
        config = self.config
        levels = len(config.block_channels)
        for block in range(levels):
            level = levels - 1 - block
            channels = config.block_channels[level]
            name = f"up_blocks.{block}"
            for index in range(config.layers_per_block + 1):
                x = self.ops.concat(x, skips.pop())
                x = self._resnet(x, f"{name}.resnets.{index}", channels)
                if depth := config.up_depth(block, index):
                    x = self._transformer(x, f"{name}.attentions.{index}", level, depth)
            if level > 0:
                # An odd size was rounded up on the way down: the skip knows what it was.
                x = self.ops.upsample(x, _size(level - 1), like=skips[-1])
                x = self.ops.conv(x, f"{name}.upsamplers.0.conv", channels)
                self.ops.cut()
        return x

    def _resnet(self, x: Value, name: str, channels: int) -> Value:
        ops, config = self.ops, self.config
        y = ops.group_norm(x, f"{name}.norm1", config.norm_groups, config.norm_eps, silu=True)
        y = ops.conv(y, f"{name}.conv1", channels)
        ops.cut()
        y = ops.add_to_map(y, ops.linear(self.emb, f"{name}.time_emb_proj", channels))
        y = ops.group_norm(y, f"{name}.norm2", config.norm_groups, config.norm_eps, silu=True)
        y = ops.conv(y, f"{name}.conv2", channels)
        if x.channels != channels:
            x = ops.conv(x, f"{name}.conv_shortcut", channels, kernel=1)
        y = ops.add(x, y)
        ops.cut()
        return y

    def _transformer(
        self, x: Value, name: str, level: int, depth: int, crossed: bool | None = None
    ) -> Value:
        ops, config = self.ops, self.config
        crossed = config.looks_twice(level) if crossed is None else crossed
        channels = config.block_channels[level]
        y = ops.group_norm(x, f"{name}.norm", config.norm_groups, TRANSFORMER_EPS)
        if config.linear_projection:
            y = ops.linear(ops.to_tokens(y), f"{name}.proj_in", channels)
        else:
            y = ops.to_tokens(ops.conv(y, f"{name}.proj_in", channels, kernel=1))
        for index in range(depth):
            y = self._block(y, f"{name}.transformer_blocks.{index}", x, level, crossed)
        if config.linear_projection:
            y = ops.to_map(ops.linear(y, f"{name}.proj_out", channels), like=x)
        else:
            y = ops.conv(ops.to_map(y, like=x), f"{name}.proj_out", channels, kernel=1)
        y = ops.add(y, x)
        ops.cut()
        return y

    def _block(self, x: Value, name: str, like: Value, level: int, crossed: bool) -> Value:
        ops, heads = self.ops, self.config.heads[level]
        channels = x.channels
        for part, norm in (("attn1", "norm1"), ("attn2", "norm2")):
            y = ops.layer_norm(x, f"{name}.{norm}", LAYER_NORM_EPS)
            text = crossed or part == "attn2"
            memory = self.context if text else self._remembered(y, like, level)
            q = ops.linear(y, f"{name}.{part}.to_q", channels, bias=False)
            k = ops.linear(memory, f"{name}.{part}.to_k", channels, bias=False)
            v = ops.linear(memory, f"{name}.{part}.to_v", channels, bias=False)
            y = ops.attention(q, k, v, heads)
            x = ops.add(x, ops.linear(y, f"{name}.{part}.to_out.0", channels))
        ops.cut()
        y = ops.layer_norm(x, f"{name}.norm3", LAYER_NORM_EPS)
        y = ops.gated_gelu(y, f"{name}.ff.net.0.proj", 4 * channels)
        return ops.add(x, ops.linear(y, f"{name}.ff.net.2", channels))

    def _remembered(self, x: Value, like: Value, level: int) -> Value:
        """Tokens of a map like ``like`` that keys and values of self-attention are made of."""
        return x


class DownsampledUnet(Unet):
    """The same with fewer keys and values at the finest resolution that has attention."""

    def __init__(self, ops: DownsamplingOps, config: UnetConfig) -> None:
        super().__init__(ops, config)
        self._downsampling = ops

    def _remembered(self, x: Value, like: Value, level: int) -> Value:
        if level != self.config.finest_attention:
            return x
        return self._downsampling.every_second(x, like, _size(level + 1))


def _size(level: int) -> tuple[Dim, Dim]:
    if level == 0:
        return "height", "width"
    return f"height_{1 << level}", f"width_{1 << level}"
