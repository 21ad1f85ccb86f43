"""Networks that enlarge pictures: found (``files``), run over tiles (``network``, ``tiles``).

``sdlite.upscalers.enlarge.upscale`` is the way in.
"""
