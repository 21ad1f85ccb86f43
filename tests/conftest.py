"""What every test gets: the same examples each run, and no time limit that a busy machine breaks."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("sdlite", deadline=None, derandomize=True)
settings.load_profile("sdlite")
