"""The safetensors reader: right on good files, one clear error for every kind of bad one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sdlite_export.source import checkpoint

from sdlite.errors import SourceCorrupt, SourceError
from sdlite.tensors.safetensors import MAX_HEADER_BYTES, open_safetensors
from tests.export.makers import TYPES, bf16_words, raw_safetensors, safetensors_bytes

quick = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


def put(folder: Path, data: bytes) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(data)
    return path


arrays = st.sampled_from(sorted(TYPES)).flatmap(
    lambda kind: npst.arrays(kind, npst.array_shapes(min_dims=0, max_dims=3, min_side=0))
)


@quick
@given(st.dictionaries(st.text(min_size=1).filter(lambda name: name != "__metadata__"), arrays))
def test_any_valid_file_is_read_back(tmp_path: Path, tensors: dict[str, Any]) -> None:
    # Empty shapes share their offset with a neighbour; any order of those is valid.
    file = open_safetensors(put(tmp_path, safetensors_bytes(tensors, {"note": "ü"})))
    assert file.metadata == {"note": "ü"}
    assert set(file.infos()) == set(tensors)
    for name, array in tensors.items():
        assert file.infos()[name] == checkpoint.TensorInfo(array.shape, array.dtype.name)
        read = file.read(name)
        assert read.dtype == array.dtype and read.shape == array.shape
        assert read.tobytes() == array.tobytes()
        assert read.flags.owndata or read.base is not None
        assert read.flags.writeable


@quick
@given(npst.arrays(np.float32, npst.array_shapes(), elements=st.floats(width=32)))
def test_bfloat16_is_widened_exactly(tmp_path: Path, array: Any) -> None:
    file = open_safetensors(put(tmp_path, safetensors_bytes({"a": array}, bf16=True)))
    assert file.infos()["a"].dtype == "bfloat16"
    read = file.read("a")
    assert read.dtype == np.float32
    assert (read.view(np.uint32) & 0xFFFF == 0).all()
    assert (bf16_words(read) == bf16_words(array)).all()


GOOD = safetensors_bytes(
    {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.arange(4, dtype=np.float16),
        "c": np.arange(3, dtype=np.int64),
    },
    {"format": "pt"},
)


def read_all(path: Path) -> None:
    file = open_safetensors(path)
    for name in file.infos():
        file.read(name)


@quick
@given(st.data())
def test_no_corruption_gives_anything_but_a_source_error(tmp_path: Path, data: Any) -> None:
    broken = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(broken) - 1))
        if data.draw(st.booleans()):
            broken[place] = data.draw(st.integers(0, 255))
        else:
            del broken[place : place + data.draw(st.integers(1, 40))]
        if not broken:
            break
    try:
        read_all(put(tmp_path, bytes(broken)))
    except SourceError as error:
        assert "\n" not in str(error)


@quick
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["dtype", "shape", "data_offsets", "__metadata__", "x"]), inner
            )
        ),
        max_leaves=12,
    )
)
def test_no_header_gives_anything_but_a_source_error(tmp_path: Path, header: object) -> None:
    try:
        read_all(put(tmp_path, raw_safetensors(header, b"1234")))
    except SourceError as error:
        assert "\n" not in str(error)


@quick
@given(st.binary(max_size=200))
def test_no_bytes_give_anything_but_a_source_error(tmp_path: Path, data: bytes) -> None:
    try:
        read_all(put(tmp_path, data))
    except SourceError as error:
        assert "\n" not in str(error)


def entry(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


DEFECTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "only 0 bytes, too short"),
    "header longer than allowed": (
        (MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}",
        "header length 100000001, the format allows 100000000",
    ),
    "absurd length": (b"\xff" * 8 + b"{}", "header length 18446744073709551615"),
    "header longer than the file": (
        (100).to_bytes(8, "little") + b"{}",
        "header of 100 bytes in a file of 10",
    ),
    "no header": (bytes(8), "header length 0, too short"),
    "not an object": (raw_safetensors([1]), "header starts with b'\\[' instead of"),
    "not JSON": (raw_safetensors(b"{]"), "header is not JSON"),
    "not UTF-8": (raw_safetensors(b'{"\xff": 1}'), "header is not UTF-8 at byte 2"),
    "too deep": (raw_safetensors(b'{"a":' + b"[" * 100_000), "header is nested too deeply"),
    "NaN": (raw_safetensors(b'{"a": NaN}'), "header contains NaN"),
    "duplicate name": (
        raw_safetensors(
            b'{"a": %(e)s, "a": %(e)s}' % {b"e": json.dumps(entry()).encode()}, b"4444"
        ),
        "header names 'a' twice",
    ),
    "name twice among many": (
        raw_safetensors(b"{" + b"".join(b'"%d":0,' % i for i in range(50_000)) + b'"49999":0}'),
        "header names '49999' twice",
    ),
    "huge number": (
        raw_safetensors(b'{"a": ' + b"9" * 5000 + b"}"),
        "header is not JSON: Exceeds the limit",
    ),
    "entry no object": (raw_safetensors({"a": 1}), "tensor 'a' is described by 1, not an object"),
    "field missing": (
        raw_safetensors({"a": {"dtype": "F32", "shape": [1]}}),
        "tensor 'a': field 'data_offsets' is missing",
    ),
    "field unknown": (
        raw_safetensors({"a": {**entry(), "stride": [1]}}, b"4444"),
        "tensor 'a': field 'stride' is unknown",
    ),
    "dtype unknown": (
        raw_safetensors({"a": entry("F33")}, b"4444"),
        "tensor 'a': unknown dtype 'F33'",
    ),
    "dtype no string": (raw_safetensors({"a": entry([1])}, b"4444"), "unknown dtype \\[1\\]"),
    "shape no list": (
        raw_safetensors({"a": {**entry(), "shape": 4}}, b"4444"),
        "shape 4 is not a list of sizes",
    ),
    "negative extent": (
        raw_safetensors({"a": entry(shape=(-1,))}, b"4444"),
        "shape \\[-1\\] is not a list of sizes",
    ),
    "boolean extent": (
        raw_safetensors({"a": entry(shape=(True,))}, b"4444"),
        "shape \\[True\\] is not a list of sizes",
    ),
    "fractional extent": (
        raw_safetensors({"a": entry(shape=(1.0,))}, b"4444"),
        "shape \\[1.0\\] is not a list of sizes",
    ),
    "too many dimensions": (
        raw_safetensors({"a": entry(shape=(1,) * 33)}, b"4444"),
        "33 dimensions, at most 32",
    ),
    "three offsets": (
        raw_safetensors({"a": entry(offsets=(0, 4, 8))}, b"4444"),
        "data_offsets \\[0, 4, 8\\] are not two sizes",
    ),
    "backwards": (
        raw_safetensors({"a": entry(offsets=(4, 0))}, b"4444"),
        "tensor 'a': begins at 4 after its end 0",
    ),
    "shape and bytes disagree": (
        raw_safetensors({"a": entry(shape=(2,))}, b"4444"),
        "shape \\[2\\] of F32 does not take the 4 bytes of its offsets",
    ),
    "product overflows": (
        raw_safetensors({"a": entry(shape=(2**62, 2**62))}, b"4444"),
        "does not take the 4 bytes",
    ),
    "outside the file": (
        raw_safetensors({"a": entry()}, b"44"),
        "tensor 'a' ends at byte 4 of the data, of which there are 2; the file is truncated",
    ),
    "overlap": (
        raw_safetensors({"a": entry(), "b": entry(offsets=(2, 6))}, b"666666"),
        "tensor 'b' overlaps tensor 'a'",
    ),
    "hole at the start": (
        raw_safetensors({"a": entry(offsets=(4, 8))}, b"88888888"),
        "4 unused bytes before tensor 'a'",
    ),
    "hole between": (
        raw_safetensors({"a": entry(), "b": entry(offsets=(8, 12))}, b"1" * 12),
        "4 unused bytes before tensor 'b'",
    ),
    "bytes at the end": (raw_safetensors({"a": entry()}, b"55555"), "1 bytes after the last ten"),
    "metadata no object": (raw_safetensors({"__metadata__": 1}), "__metadata__ is 1, not an obj"),
    "metadata no string": (
        raw_safetensors({"__metadata__": {"a": 1}}),
        "__metadata__ entry 'a' is 1, not a string",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_every_defect_has_its_message(tmp_path: Path, defect: str) -> None:
    data, words = DEFECTS[defect]
    with pytest.raises(SourceCorrupt, match=words) as caught:
        open_safetensors(put(tmp_path, data))
    message = str(caught.value)
    assert message.startswith("model.safetensors: ") and message.endswith("get it again")
    assert "\n" not in message and len(message) < 250


def test_float8_says_what_to_do(tmp_path: Path) -> None:
    data = raw_safetensors({"a": entry("F8_E4M3", (4,))}, b"4444")
    with pytest.raises(SourceError, match="float8 weights are not read, use the fp16 file"):
        open_safetensors(put(tmp_path, data))


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"cannot read .*No such file"):
        open_safetensors(tmp_path / "none.safetensors")


def test_a_file_that_shrinks_after_it_was_opened_is_told(tmp_path: Path) -> None:
    path = put(tmp_path, GOOD)
    file = open_safetensors(path)
    path.write_bytes(GOOD[:-9])
    assert file.read("a").shape == (2, 3)
    with pytest.raises(SourceCorrupt, match="inside tensor c; the file is truncated"):
        file.read("c")
    with pytest.raises(SourceCorrupt, match="no tensor 'd'"):
        file.read("d")
