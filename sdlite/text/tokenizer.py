"""CLIP's byte-pair tokenizer, from the files a package carries."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sdlite.errors import PackageInvalid

if TYPE_CHECKING:
    import tokenizers

    from sdlite.manifest import Tokenizer as TokenizerSpec
    from sdlite.package import Package

# CLIP (Radford et al., 2021) cuts contractions, runs of letters, single digits and runs of other
# characters; white space separates and is dropped.
WORD_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class ClipTokenizer:
    """Cuts prompts into token ids.

    Args:
        spec: the manifest's entry.
        files: contents of the tokenizer's files by file name: ``tokenizer.json``, or
            ``vocab.json`` and ``merges.txt``.

    Raises:
        PackageInvalid: the files are not a CLIP tokenizer.
    """

    def __init__(self, spec: TokenizerSpec, files: dict[str, bytes]) -> None:
        self._spec = spec
        try:
            self._tokenizer = _build(files)
        except PackageInvalid:
            raise
        except Exception as error:
            raise PackageInvalid(f"tokenizer {spec.name!r} cannot be read: {error}") from error

    @classmethod
    def from_package(cls, package: Package, index: int = 0) -> ClipTokenizer:
        """The package's tokenizer number ``index``; raises ``PackageInvalid``."""
        spec = package.manifest.tokenizers[index]
        files = {}
        for entry in spec.files:
            path = package.path(entry.path)
            files[path.name] = path.read_bytes()
        return cls(spec, files)

    @property
    def size(self) -> int:
        """Tokens of a prompt that fit into one chunk, begin and end not counted."""
        return self._spec.length - 2

    @property
    def comma(self) -> int | None:
        """The token of a comma; None when there is none."""
        found: int | None = self._tokenizer.token_to_id(",</w>")
        return found

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of each text, without begin, end and padding, however long."""
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def chunk_ids(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """What the text encoder reads for at most ``size`` tokens: begin, tokens, end, padding."""
        spec = self._spec
        padding = (spec.pad,) * (self.size - len(tokens))
        return (spec.bos, *tokens, spec.eos, *padding)


def _build(files: dict[str, bytes]) -> tokenizers.Tokenizer:
    # Imported here: the library takes tens of milliseconds that `sdlite --help` need not spend.
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    if "tokenizer.json" in files:
        tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode("utf-8"))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer
    if not {"vocab.json", "merges.txt"} <= files.keys():
        raise PackageInvalid(
            f"a CLIP tokenizer needs vocab.json and merges.txt, or tokenizer.json; found "
            f"{', '.join(sorted(files)) or 'nothing'}"
        )
    vocabulary = json.loads(files["vocab.json"])
    lines = files["merges.txt"].decode("utf-8").splitlines()
    merges = [
        (pair[0], pair[1])
        for line in lines
        if not line.startswith("#version") and len(pair := line.split()) == 2
    ]
    tokenizer = Tokenizer(
        models.BPE(
            vocabulary,
            merges,
            end_of_word_suffix="</w>",
            unk_token="<|endoftext|>",
            fuse_unk=False,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer
