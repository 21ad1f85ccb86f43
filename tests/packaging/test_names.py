"""The public names, so that none appears or vanishes by accident."""

from __future__ import annotations

import sdlite

PUBLIC = """
Cancelled Control Edit EngineError Hires LoraUse NoPlan OutOfMemory OutputError Package PackageError
Pipeline Plan Request RequestError Result RuntimeUnavailable SamplerState SdliteError SourceError
Step UnknownName load
"""


def test_public_names() -> None:
    assert sorted(sdlite.__all__) == sorted(PUBLIC.split())


def test_every_public_name_is_there() -> None:
    for name in sdlite.__all__:
        assert getattr(sdlite, name) is not None
        assert name in dir(sdlite)
