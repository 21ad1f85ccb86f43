"""Licences are found where models state them."""

from __future__ import annotations

from pathlib import Path

import pytest
from sdlite_export.licence import card_licence, file_licence, folder_licence, metadata_licence
from sdlite_export.source import SourceLicence


@pytest.mark.parametrize(
    ("card", "found"),
    [
        ("---\nlicense: creativeml-openrail-m\ntags:\n- x\n---\n# Model", "creativeml-openrail-m"),
        ("---\ntags:\n- license\nlicense: 'mit'  # really\n---\n", "mit"),
        ("\ufeff---\r\nlicense: apache-2.0\r\n---\r\n", "apache-2.0"),
        ("---\nlicense:\n- mit\n- apache-2.0\n---\n", "mit"),
        ("---\nlicense: [openrail, mit]\n---\n", "openrail"),
        ("---\nlicense: other\nlicense_name: my-terms\n---\n", "my-terms"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\nlanguage: en\n---\nlicense: mit\n", None),
        ("# Model\nlicense: mit\n", None),
        ("---\nmetadata:\n  license: mit\n---\n", None),
        ("", None),
    ],
)
def test_cards(card: str, found: str | None) -> None:
    assert card_licence(card) == found


def test_folders(tmp_path: Path) -> None:
    assert folder_licence(tmp_path) == SourceLicence("unknown", None)
    (tmp_path / "LICENSE.md").write_text("MIT License\n\nCopyright me")
    assert folder_licence(tmp_path) == SourceLicence("mit", "MIT License\n\nCopyright me")
    (tmp_path / "README.md").write_text("---\nlicense: openrail\n---\n")
    assert folder_licence(tmp_path).id == "openrail"
    (tmp_path / "README.md").write_bytes(b"\xff\xfe---")
    (tmp_path / "LICENSE.md").write_text("All rights reserved, except on Sundays.")
    assert folder_licence(tmp_path).id == "other"


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        ({}, SourceLicence()),
        ({"modelspec.license": "CreativeML Open RAIL-M"}, SourceLicence("CreativeML Open RAIL-M")),
        ({"license": "mit", "modelspec.license": " "}, SourceLicence("mit")),
        ({"license": "You may\nnot"}, SourceLicence("other", "You may\nnot")),
    ],
)
def test_metadata(metadata: dict[str, str], found: SourceLicence) -> None:
    assert metadata_licence(metadata) == found


def test_single_files(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"")
    assert file_licence(path, {}).id == "unknown"
    (tmp_path / "README.md").write_text("---\nlicense: openrail\n---\n")
    assert file_licence(path, {}).id == "openrail"
    assert file_licence(path, {"license": "mit"}).id == "mit"
    (tmp_path / "other.ckpt").write_bytes(b"")
    assert file_licence(path, {}).id == "unknown"
