"""Core ML packages of the same model definitions, for the GPU and the Neural Engine of a Mac."""
