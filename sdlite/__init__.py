"""Stable Diffusion on weak hardware, without PyTorch.

>>> import sdlite
>>> with sdlite.load("shapes") as pipe:
...     pipe.generate("a red circle on a blue background", seed=7).images[0].save("circle.png")
"""

__version__ = "0.1.0"
