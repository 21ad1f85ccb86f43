"""The pickle reader: tensors out, nothing executed, whatever the file says."""

from __future__ import annotations

import os
import pickle
import pickletools
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdlite.errors import SourceCorrupt, SourceError, SourceHostile
from sdlite.tensors.base import TensorInfo
from sdlite.tensors.pickle import open_pickle
from sdlite.tensors.pickle_machine import run
from tests.export.makers import Call, Global, TorchFile, bf16_words, dump, write_archive

quick = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_of_every_dtype_are_read(tmp_path: Path, protocol: int) -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        kind: (rng.standard_normal((3, 4)) * 10).astype(kind)
        for kind in ("float32", "float16", "float64", "int64", "int32", "uint8", "bool")
    }
    file = TorchFile()
    state = {kind: file.tensor(array) for kind, array in arrays.items()}
    words = bf16_words(arrays["float32"])
    state["bfloat16"] = file.tensor(words, "bfloat16")
    path = file.write(tmp_path / "m.ckpt", state, protocol)
    read = open_pickle(path)
    for kind, array in arrays.items():
        assert read.infos()[kind] == TensorInfo((3, 4), kind)
        assert read.read(kind).dtype == array.dtype
        assert (read.read(kind) == array).all()
    assert read.infos()["bfloat16"].dtype == "bfloat16"
    assert (bf16_words(read.read("bfloat16")) == words).all()


def test_views_of_one_storage_are_read(tmp_path: Path) -> None:
    base = np.arange(24, dtype=np.float32)
    file = TorchFile()
    storage = file.storage(base)
    state = {
        "whole": file.view(storage, 0, (24,), (1,)),
        "transposed": file.view(storage, 0, (6, 4), (1, 6)),
        "part": file.view(storage, 5, (2, 3), (6, 1)),
        "scalar": file.view(storage, 7, (), ()),
        "none": file.view(storage, 0, (0, 3), (3, 1)),
        "repeated": file.view(storage, 3, (4, 2), (0, 1)),
    }
    read = open_pickle(file.write(tmp_path / "m.pt", state))
    assert (read.read("whole") == base).all()
    assert (read.read("transposed") == base.reshape(4, 6).T).all()
    assert read.read("transposed").flags.c_contiguous
    assert (read.read("part") == base.reshape(4, 6)[:2, :3] + 5).all()
    assert read.read("scalar").shape == () and read.read("scalar") == 7
    assert read.read("none").shape == (0, 3)
    assert (read.read("repeated") == [[3, 4]] * 4).all()


def test_training_state_of_real_checkpoints_is_tolerated(tmp_path: Path) -> None:
    file = TorchFile()
    weight = np.ones((2, 2), np.float16)
    scalar = Call("numpy.core.multiarray", "scalar", Call("numpy", "dtype", "f8", 0, 1), b"8" * 8)
    monitor = Global("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
    metadata = Call("collections", "OrderedDict")
    state = Call(
        "collections",
        "OrderedDict",
        state={"_metadata": metadata},
        items=[
            ("w", file.tensor(weight)),
            ("p", Call("torch._utils", "_rebuild_parameter", file.tensor(weight), True, None)),
        ],
    )
    top = {
        "epoch": 3,
        "global_step": 470_000,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": state,
        "callbacks": {monitor: {"monitor": "val", "best_model_score": scalar}},
        "optimizer_states": [{"lr": 1e-4, "betas": (0.9, 0.999), "flag": False, "none": None}],
        "hparams": Call("omegaconf.dictconfig", "DictConfig", state={"_content": {}}),
        "seen": {1, 2},
        "frozen": frozenset([1]),
        "device": Call("torch", "device", "cuda", 0),
        "dtype": Global("torch", "float16"),
        "time": Call("datetime", "timedelta", 1, 2, 3),
    }
    for protocol in (2, 4):
        read = open_pickle(file.write(tmp_path / "m.ckpt", top, protocol))
        assert set(read.infos()) == {"w", "p"}
        assert (read.read("p") == 1).all()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("nt", "system"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("builtins", "getattr"),
        ("__builtin__", "eval"),
        ("subprocess", "Popen"),
        ("torch", "load"),
        ("torch.storage", "_load_from_bytes"),
        ("torch.hub", "load"),
        ("torch._utils", "_rebuild_device_tensor_from_numpy"),
        ("numpy", "load"),
        ("numpy.testing._private.utils", "runstring"),
        ("importlib", "import_module"),
        ("pickle", "loads"),
        ("typing", "get_type_hints"),
        ("collections", "OrderedDict.__class__"),
        ("pytorch_lightning", "__builtins__.eval"),
        ("pytorch_lightning\x00", "x"),
        ("torch.", "FloatStorage"),
        ("", ""),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_code_is_refused_by_name(tmp_path: Path, module: str, name: str, protocol: int) -> None:
    before = set(sys.modules)
    program = dump({"state_dict": {}, "x": Call(module, name, "touch pwned")}, protocol)
    path = write_archive(tmp_path / "m.ckpt", program)
    with pytest.raises(SourceHostile, match="is no part of a model; it may be malicious") as caught:
        open_pickle(path)
    assert repr(f"{module}.{name}") in str(caught.value)
    assert set(sys.modules) <= before | {"encodings.idna"}
    assert [item.name for item in tmp_path.iterdir()] == ["m.ckpt"]


def test_a_real_exploit_is_refused_and_does_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "pwned"

    class Exploit:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(marker),))

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path = write_archive(tmp_path / "m.ckpt", pickle.dumps({"a": Exploit()}, protocol))
        # Protocol 0 is refused before it gets as far as its name.
        with pytest.raises(SourceHostile, match=r"mkdir|instruction b'p', which PyTorch never"):
            open_pickle(path)
    assert not marker.exists()


HOSTILE: dict[str, tuple[bytes, str]] = {
    "instance": (b"(S'x'\nios\nsystem\n.", "instruction b'S'"),
    "instance without argument": (b"(ios\nsystem\n.", "'os.system'"),
    "call of a storage type": (b"ctorch\nFloatStorage\n)R.", "calls torch.FloatStorage; refused"),
    "object of a storage type": (b"ctorch\nFloatStorage\n)\x81.", "makes a torch.FloatStorage"),
    "state of a list": (b"]}b.", "sets the state of a list; refused"),
    "state of a class": (b"ccollections\nOrderedDict\n}b.", "sets the state of a Name; refused"),
    "extension registry": (b"\x82\x01.", "instruction b'\\\\x82'"),
}


@pytest.mark.parametrize("trick", HOSTILE)
def test_tricks_are_refused(trick: str) -> None:
    program, words = HOSTILE[trick]
    with pytest.raises(SourceHostile, match=words):
        run(program, "m.ckpt")


BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "ends in the middle"),
    "no stop": (b"\x80\x02N", "ends in the middle"),
    "nothing to return": (b".", "broken at byte 1"),
    "string too long": (b"X\xff\xff\xff\xff.", "ends in the middle"),
    "string not UTF-8": (b"X\x01\x00\x00\x00\xff.", "broken at byte 6"),
    "name without end": (b"cos", "ends in the middle"),
    "no mark": (b"t.", "lacks a mark"),
    "mark as a value": (b"(.", "takes a value that is not there"),
    "unknown memo": (b"h\x07.", "recalls value 7"),
    "append to a dict": (b"}Na.", "appends to a dict"),
    "items of a list": (b"]NNs.", "sets items of a list"),
    "odd items": (b"}(Nu.", "a key without a value"),
    "call with a list": (b"ccollections\nOrderedDict\n]R.", "calls with a list"),
    "call of a number": (b"K\x01)R.", "calls a int"),
    "object of a number": (b"K\x01)\x81.", "makes an object of a int"),
    "name of numbers": (b"K\x01K\x01\x93.", "by something that is no string"),
    "bad storage": (b"K\x01Q.", "is no storage"),
    "storage of nothing": (
        b"(X\x07\x00\x00\x00storageNX\x01\x00\x00\x000NNtQ.",
        "storage without type, key and length",
    ),
    "pairs that are none": (b"ccollections\nOrderedDict\n(]K\x01atR.", "no list of pairs"),
    "parameter of nothing": (b"ctorch._utils\n_rebuild_parameter\n)R.", "no tensor"),
    "tensor of nothing": (b"ctorch._utils\n_rebuild_tensor_v2\n)R.", "makes a tensor of 0 values"),
    "tensor of numbers": (
        b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x01K\x01K\x01tR.",
        "makes a tensor of a int",
    ),
    "huge number": (b"\x8b\xff\xff\xff\x7f.", "ends in the middle"),
}


@pytest.mark.parametrize("defect", BROKEN)
def test_every_defect_has_its_message(defect: str) -> None:
    program, words = BROKEN[defect]
    with pytest.raises(SourceCorrupt, match=words) as caught:
        run(program, "m.ckpt")
    assert str(caught.value).startswith("m.ckpt: pickle ")


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "error", "words"),
    [
        (0, (3, 3), (3, 1), SourceCorrupt, "reaches element 9 of a storage of 8"),
        (8, (1,), (1,), SourceCorrupt, "reaches element 9"),
        (0, (2**40, 2**40), (0, 0), SourceHostile, "elements from a storage of 8; refused"),
        (0, (2,), (2**61,), SourceCorrupt, "reaches element"),
        (-1, (1,), (1,), SourceCorrupt, "no sizes"),
        (0, (-1,), (1,), SourceCorrupt, "no sizes"),
        (0, (1,), (-1,), SourceCorrupt, "no sizes"),
        (0, (True,), (1,), SourceCorrupt, "no sizes"),
        (0, (2, 2), (1,), SourceCorrupt, "2 dimensions with 1 strides"),
        (0, (1,) * 33, (1,) * 33, SourceCorrupt, "no sizes"),
        (0, 2**70, (1,), SourceCorrupt, "no sizes"),
    ],
)
def test_views_outside_their_storage_are_refused(
    tmp_path: Path, offset: Any, shape: Any, strides: Any, error: type[SourceError], words: str
) -> None:
    file = TorchFile()
    storage = file.storage(np.zeros(8, np.float32))
    state = {"a": file.view(storage, offset, shape, strides)}
    with pytest.raises(error, match=words):
        open_pickle(file.write(tmp_path / "m.ckpt", state))


def test_storages_that_are_missing_or_short_are_told(tmp_path: Path) -> None:
    file = TorchFile()
    state = {"weight": file.tensor(np.zeros(8, np.float32))}
    file.data["0"] = bytes(28)
    with pytest.raises(SourceCorrupt, match="storage of 8 elements, the file has 7"):
        open_pickle(file.write(tmp_path / "m.ckpt", state))
    file.data.clear()
    with pytest.raises(SourceCorrupt, match=r"tensor weight: its data \(storage '0'\) is not in"):
        open_pickle(file.write(tmp_path / "m.ckpt", state))


@pytest.mark.parametrize("top", [[], None, {}, {"state_dict": 3}, {"a": 1}, "text"])
def test_a_pickle_without_named_tensors_is_told(tmp_path: Path, top: object) -> None:
    with pytest.raises(SourceCorrupt, match=r"named tensors|no tensors by name"):
        open_pickle(write_archive(tmp_path / "m.ckpt", dump(top)))


@pytest.mark.parametrize(
    "name",
    ["../evil", "archive/../evil", "/etc/passwd", "archive/data/x", "archive/code/a.py",
     "archive\\data.pkl", "archive/data/0/1", "C:/data.pkl", "archive/data.pkl/x", "x.py", ""],
)  # fmt: skip
def test_archive_members_torch_does_not_write_are_refused(tmp_path: Path, name: str) -> None:
    path = write_archive(tmp_path / "m.ckpt", dump({}))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name or " "), b"")
    with pytest.raises(SourceHostile, match="is nothing that PyTorch writes; refused"):
        open_pickle(path)


def test_odd_archives_are_told(tmp_path: Path) -> None:
    path = tmp_path / "m.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", dump({}) + bytes(1000))
    with pytest.raises(SourceError, match="'program' is compressed; PyTorch never does"):
        open_pickle(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/version", b"3")
    with pytest.raises(SourceCorrupt, match=r"has no data\.pkl"):
        open_pickle(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"")
        archive.writestr("b/version", b"3")
    with pytest.raises(SourceHostile, match="2 top folders"):
        open_pickle(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"N.")
        archive.writestr("a/byteorder", b"big")
    with pytest.raises(SourceError, match="big-endian machine"):
        open_pickle(path)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"N.")
        archive.writestr("a/data.pkl", b"N.")
    with pytest.raises(SourceHostile, match="twice; refused"):
        open_pickle(path)


def test_overlapping_members_are_refused(tmp_path: Path) -> None:
    file = TorchFile()
    state = {"a": file.tensor(np.zeros(64, np.float32)), "b": file.tensor(np.ones(64, np.float32))}
    path = file.write(tmp_path / "m.ckpt", state)
    with zipfile.ZipFile(path) as archive:
        first, second = (archive.getinfo(f"archive/data/{key}") for key in "01")
    data = path.read_bytes()
    directory = data.rindex(b"PK\x01\x02", 0, data.rindex(b"archive/data/1"))
    where = directory + 42
    assert data[where : where + 4] == second.header_offset.to_bytes(4, "little")
    path.write_bytes(data[:where] + first.header_offset.to_bytes(4, "little") + data[where + 4 :])
    with pytest.raises(SourceHostile, match="overlaps another; refused"):
        open_pickle(path)


def test_foreign_files_say_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "m.ckpt"
    path.write_bytes(b"GGUF and so on")
    with pytest.raises(SourceCorrupt, match="starts with 47 47 55 46, it is no PyTorch"):
        open_pickle(path)
    path.write_bytes(b"")
    with pytest.raises(SourceCorrupt, match="starts with nothing"):
        open_pickle(path)
    with pytest.raises(SourceError, match=r"cannot read .*No such file"):
        open_pickle(tmp_path / "none.ckpt")


def good_file() -> bytes:
    import tempfile

    file = TorchFile()
    state = {
        "state_dict": {
            "a": file.tensor(np.arange(6, dtype=np.float32).reshape(2, 3)),
            "b": file.tensor(np.arange(4, dtype=np.float16)),
        },
        "callbacks": {Global("pytorch_lightning.callbacks", "X"): [1, 2.0, "three", (4, None)]},
    }
    with tempfile.TemporaryDirectory() as folder:
        return file.write(Path(folder) / "m.ckpt", state).read_bytes()


GOOD = good_file()


def read_all(path: Path) -> None:
    file = open_pickle(path)
    for name in file.infos():
        file.read(name)


def test_the_good_file_is_good(tmp_path: Path) -> None:
    (tmp_path / "m.ckpt").write_bytes(GOOD)
    read_all(tmp_path / "m.ckpt")


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
    path = tmp_path / "m.ckpt"
    path.write_bytes(bytes(broken))
    try:
        read_all(path)
    except SourceError as error:
        assert "\n" not in str(error)


KNOWN = sorted(
    opcode.code.encode("latin-1")
    for opcode in pickletools.opcodes
    if opcode.code not in "FILSVPgp\x96\x97\x98\x82\x83\x84"
)


@quick
@given(
    st.lists(
        st.sampled_from(KNOWN)
        | st.binary(max_size=6)
        | st.sampled_from(
            [
                b"ctorch._utils\n_rebuild_tensor_v2\n",
                b"ccollections\nOrderedDict\n",
                b"ctorch\nHalfStorage\n",
                b"X\x07\x00\x00\x00storage",
                b"K\x01",
                b")",
            ]
        ),
        max_size=40,
    )
)
def test_no_program_gives_anything_but_a_source_error(pieces: list[bytes]) -> None:
    try:
        run(b"".join(pieces) + b".", "m.ckpt")
    except SourceError as error:
        assert "\n" not in str(error).replace("\\n", "")


def test_deeply_nested_programs_end_well() -> None:
    for piece in (b"\x85", b"]q\x00", b"("):
        program = b")" + piece * 50_000 + b"."
        try:
            run(program, "m.ckpt")
        except SourceError as error:
            assert len(str(error)) < 200
    # A key whose hash would recurse through every level is left out, not computed.
    assert run(b"})" + b"\x85" * 50_000 + b"Ns.", "m.ckpt") == {}
