"""Upscaler networks: recognised by their tensors, written as one ONNX file each."""
