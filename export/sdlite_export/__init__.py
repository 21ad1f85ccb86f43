"""Checkpoint to package: reads Stable Diffusion weights, writes graphs, without PyTorch."""
