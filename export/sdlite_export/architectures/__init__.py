"""Model definitions: each takes its numbers and an ``Ops`` and names weights as diffusers does."""
