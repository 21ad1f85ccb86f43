"""Read CLIP tokenizers from their folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdlite.errors import SourceCorrupt, SourceError
from sdlite_export.source.checkpoint import TokenizerFiles
from sdlite_export.source.files import parse_json, read_bytes, read_json

BEGIN = "<|startoftext|>"
END = "<|endoftext|>"
LENGTH = 77


def read_tokenizer(folder: Path) -> TokenizerFiles:
    """Read ``vocab.json`` and ``merges.txt``, or ``tokenizer.json`` where those are not there.

    Raises ``SourceError`` when neither is complete or the special tokens are not in it.
    """
    vocab_path, merges_path = folder / "vocab.json", folder / "merges.txt"
    whole = folder / "tokenizer.json"
    if vocab_path.is_file() and merges_path.is_file():
        vocab_data, merges = read_bytes(vocab_path), read_bytes(merges_path)
        vocab = _vocab(vocab_path, parse_json(vocab_data, vocab_path))
        _check_merges(merges_path, merges)
        files = {"vocab.json": vocab_data, "merges.txt": merges}
    elif whole.is_file():
        data = read_bytes(whole)
        vocab = _whole_vocab(whole, parse_json(data, whole))
        files = {"tokenizer.json": data}
    else:
        raise SourceError(
            f"{folder} has no tokenizer: vocab.json with merges.txt, or tokenizer.json, is needed"
        )
    config = _optional(folder / "tokenizer_config.json")
    special = _optional(folder / "special_tokens_map.json")
    length = config.get("model_max_length", LENGTH)
    if not isinstance(length, int) or isinstance(length, bool) or not 3 <= length <= 4096:
        # Some files carry a huge placeholder; the family's length is meant then.
        length = LENGTH

    def token(key: str, usual: str) -> int:
        content = special.get(key, config.get(key, usual))
        if isinstance(content, dict):
            content = content.get("content")
        if not isinstance(content, str) or content not in vocab:
            raise SourceCorrupt(f"{folder}: {key} {content!r} is not in the vocabulary")
        return vocab[content]

    end = token("eos_token", END)
    return TokenizerFiles(files, length, token("bos_token", BEGIN), end, token("pad_token", END))


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _vocab(path: Path, data: object) -> dict[str, int]:
    if not isinstance(data, dict) or not data:
        raise SourceCorrupt(f"{path}: holds no vocabulary")
    for word, number in data.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise SourceCorrupt(f"{path}: token {word!r} has id {number!r}, not a number")
    return data


def _whole_vocab(path: Path, data: dict[str, Any]) -> dict[str, int]:
    model = data.get("model")
    vocab = dict(_vocab(path, model.get("vocab") if isinstance(model, dict) else None))
    added = data.get("added_tokens") or []
    if not isinstance(added, list):
        raise SourceCorrupt(f"{path}: added_tokens is no list")
    for item in added:
        if not isinstance(item, dict) or not isinstance(item.get("content"), str):
            raise SourceCorrupt(f"{path}: added token {item!r} has no content")
        vocab.update(_vocab(path, {item["content"]: item.get("id")}))
    return vocab


def _check_merges(path: Path, data: bytes) -> None:
    try:
        lines = data.decode("utf-8").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise SourceCorrupt(f"{path}: not UTF-8 at byte {error.start}") from error
    for number, line in enumerate(lines, 1):
        if line and not line.startswith("#version") and len(line.split(" ")) != 2:
            raise SourceCorrupt(f"{path}: line {number} is not a pair of tokens")
