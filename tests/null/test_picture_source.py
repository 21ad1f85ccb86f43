"""Opening pictures: every mode and orientation comes out as upright RGB; bad files are told."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdlite.errors import RequestError
from sdlite.image.source import MAX_PIXELS, flatten, open_picture, upright


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def ramp(mode: str = "RGB") -> Image.Image:
    pixels = np.arange(12 * 8 * 3, dtype=np.uint8).reshape(8, 12, 3)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize(
    ("mode", "format"),
    [
        ("1", "PNG"),
        ("L", "PNG"),
        ("LA", "PNG"),
        ("P", "GIF"),
        ("RGB", "BMP"),
        ("YCbCr", "TIFF"),
        ("CMYK", "JPEG"),
        ("CMYK", "TIFF"),
        ("LAB", "TIFF"),
    ],
)
def test_every_mode_becomes_rgb(mode: str, format: str) -> None:
    image = Image.new(mode, (12, 8)) if mode == "LAB" else ramp(mode)
    opened = open_picture(saved(image, format))
    assert opened.mode == "RGB"
    assert opened.size == (12, 8)


def test_cmyk_keeps_its_colours() -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert open_picture(saved(red, "TIFF")).getpixel((3, 3)) == (255, 0, 0)


def test_sixteen_bits_are_scaled() -> None:
    levels = np.array([[0, 257 * 100, 65535, 32768]], np.uint16)
    opened = open_picture(saved(Image.fromarray(levels), "PNG"))
    assert [opened.getpixel((x, 0))[0] for x in range(4)] == [0, 100, 255, 128]
    wide = Image.fromarray(levels.astype(np.int32))
    assert upright(wide).tobytes() == opened.tobytes()


def test_floats_are_shares_or_levels() -> None:
    shares = np.array([[0.0, 0.5, 1.0]], np.float32)
    values = [upright(Image.fromarray(shares)).getpixel((x, 0)) for x in range(3)]
    assert values == [(0, 0, 0), (128, 128, 128), (255, 255, 255)]
    assert upright(Image.fromarray(shares * 200)).getpixel((2, 0)) == (200, 200, 200)
    for bad in (np.nan, -1.0, 1e9):
        with pytest.raises(RequestError, match="grey levels"):
            upright(Image.fromarray(shares * 0 + np.float32(bad)))


def test_exif_rotation_is_applied_once() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    opened = open_picture(saved(ramp(), "PNG", exif=exif))
    assert opened.size == (8, 12)
    assert opened.tobytes() == ramp().transpose(Image.Transpose.ROTATE_270).tobytes()
    assert upright(opened).size == (8, 12)
    grey = saved(Image.fromarray(np.zeros((8, 12), np.uint16)), "PNG", exif=exif)
    assert open_picture(grey).size == (8, 12)


def test_transparency_stays_and_is_flattened_on_white() -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    opened = open_picture(saved(image, "PNG"))
    assert opened.mode == "RGBA"
    assert flatten(opened).getpixel((0, 0)) == (255, 0, 0)
    assert flatten(opened).getpixel((1, 0)) == (255, 255, 255)
    palette = saved(ramp("P"), "PNG", transparency=0)
    assert open_picture(palette).mode == "RGBA"
    assert open_picture(saved(Image.new("RGBA", (2, 2), (1, 2, 3, 255)), "PNG")).mode == "RGB"


def bomb(side: int) -> bytes:
    """A PNG whose header promises more than anybody wants."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9460, 12_000, 60_000])
def test_decompression_bombs_are_refused(side: int) -> None:
    assert side**2 > MAX_PIXELS
    with pytest.raises(RequestError, match=f"more than {MAX_PIXELS}"):
        open_picture(bomb(side), "bomb.png")


def test_unreadable_files_are_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no file .*none\.png"):
        open_picture(tmp_path / "none.png")
    with pytest.raises(RequestError, match="no file"):
        open_picture(tmp_path)
    text = tmp_path / "text.png"
    text.write_text("no picture")
    with pytest.raises(RequestError, match=r"text\.png is no picture"):
        open_picture(text)
    cut = tmp_path / "cut.png"
    cut.write_bytes(saved(ramp(), "PNG")[:-40])
    with pytest.raises(RequestError, match=r"cut\.png is no picture that can be read"):
        open_picture(cut)
    with pytest.raises(RequestError, match="the picture is no picture"):
        open_picture(b"")
