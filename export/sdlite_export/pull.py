"""Fetch a model from a Hugging Face hub: asked for, shown, confirmed, resumed, verified.

This is the only module that reaches the network, and only when ``pull`` is called. Files come into
a hidden folder beside the destination, where an interrupted download goes on the next time, and are
renamed into place when every one of them has the checksum that the hub states. A small file beside
them records what was asked for, so that nothing else is later taken for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sdlite.destination import LITTER, check_space
from sdlite.errors import Cancelled, OutputError, RequestError, SourceCorrupt, SourceError
from sdlite_export.pull_plan import PullFile, PullPlan, choose_files, plain_path

ATTEMPTS = 5
"""Times a transfer is tried again without a byte of progress between."""
PAUSE_SECONDS = 1.0
TIMEOUT_SECONDS = 30.0
CHUNK = 1 << 20
STATE = "sdlite-pull.json"
"""In the hidden folder: which files are coming. In the finished one: what was asked for."""
MAX_STATE_BYTES = 65536
REPO = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}")

Progress = Callable[[str, int, int], object]
"""Called with the file being fetched, bytes done and bytes in all; may raise to stop."""

__all__ = ["PullFile", "PullPlan", "Progress", "pull", "pulled"]


def pull(
    repo: str,
    dest_folder: Path,
    *,
    revision: str | None = None,
    confirm: Callable[[PullPlan], bool],
    endpoint: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Fetch what an export needs of a hub model.

    Args:
        repo: ``org/name``, or ``org/name/path/to/file.safetensors`` for one file of it.
        dest_folder: folder to make; must not exist or be empty.
        revision: branch, tag or commit; None is the main branch.
        confirm: shown the files, their size and the licence; False ends without a download.
        endpoint: address of the hub; None is what huggingface_hub is set to.
        progress: told of every piece that arrives.

    Returns the path to give to the exporter: the folder, or the one file in it.

    Raises ``RequestError`` for a name that is none, ``SourceError`` when the hub cannot be reached
    or has no such model, ``SourceCorrupt`` for a wrong checksum, ``OutputError`` when the files
    cannot be written, ``Cancelled`` when ``confirm`` says no. What has arrived is kept for the next
    attempt, except files with a wrong checksum.
    """
    name, wanted = _split(repo)
    dest = dest_folder.resolve()
    if dest.exists() and not (dest.is_dir() and _is_empty(dest)):
        raise OutputError(f"{dest} exists already; give a new folder, or export from it as it is")
    hub = _Hub(endpoint)
    plan = hub.plan(name, revision, wanted, dest)
    if not confirm(plan):
        raise Cancelled(f"{name} was not fetched")
    staging = dest.parent / f".{dest.name}.sdlite-pull"
    try:
        _prepare(staging, plan)
        present = sum(_size(staging / file.path) for file in plan.files)
        check_space(dest.parent, plan.size - present)
        done = 0
        for file in plan.files:
            done = _fetch(hub, plan, file, staging, done, progress)
        source = plan.files[0].path if plan.single else ""
        _record(staging, _asked(repo, revision), source, plan.revision)
        if dest.exists():
            _clear(dest)
        staging.rename(dest)
    except OSError as error:
        raise OutputError(f"cannot write {dest}: {error.strerror or error}") from error
    return dest / source


def pulled(folder: Path, repo: str, revision: str | None = None) -> Path | None:
    """What an earlier ``pull`` of the same model and revision left in ``folder``.

    Returns the path to give to the exporter; None when the folder does not hold it, or holds
    anything else. The hub is not asked: a branch may have gone on since.
    """
    asked = _asked(repo, revision)
    try:
        with (folder / STATE).open("rb") as stream:
            found = json.loads(stream.read(MAX_STATE_BYTES))
        if found["asked"] != asked:
            return None
        inside = found["source"]
        source = folder if inside == "" else folder / plain_path(repo, inside)
        return source if source.exists() else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError, SourceError):
        return None  # no record, or one that was not written here


def _asked(repo: str, revision: str | None) -> dict[str, str | None]:
    name, wanted = _split(repo)
    return {"repo": name, "file": wanted, "revision": revision}


def _record(folder: Path, asked: dict[str, str | None], source: str, commit: str) -> None:
    text = json.dumps({"asked": asked, "source": source, "commit": commit}, indent=1)
    (folder / STATE).write_text(text + "\n", encoding="utf-8")


def _split(repo: str) -> tuple[str, str | None]:
    """``org/name`` and the file inside it, if one is given."""
    parts = repo.strip().strip("/").split("/")
    name = "/".join(parts[:2])
    if not REPO.fullmatch(name):
        raise RequestError(
            f"{repo!r} is no name of a hub model; write org/name, or org/name/file.safetensors"
        )
    return name, "/".join(parts[2:]) or None


class _Hub:
    """The few calls to huggingface_hub, with its errors turned into ours."""

    def __init__(self, endpoint: str | None) -> None:
        try:
            import huggingface_hub
            from huggingface_hub import errors, utils
        except ImportError as error:
            raise SourceError(
                'fetching models needs huggingface_hub: pip install "sdlite[export]"'
            ) from error
        self.library: Any = huggingface_hub
        self.errors: Any = errors
        self.utils: Any = utils
        self.endpoint = endpoint

    def plan(self, name: str, revision: str | None, wanted: str | None, dest: Path) -> PullPlan:
        """Ask what the model consists of and choose."""
        try:
            info = self.library.HfApi(endpoint=self.endpoint).model_info(
                name, revision=revision, files_metadata=True, timeout=TIMEOUT_SECONDS
            )
        except Exception as error:
            raise self.explain(name, revision, error) from error
        listed = []
        for item in info.siblings or ():
            lfs = item.lfs
            listed.append(
                PullFile(
                    plain_path(name, item.rfilename),
                    int(lfs.size if lfs is not None else item.size or 0),
                    lfs.sha256 if lfs is not None else None,
                    item.blob_id,
                )
            )
        licences = [
            tag.removeprefix("license:")
            for tag in info.tags or ()
            if isinstance(tag, str) and tag.startswith("license:")
        ]
        files, single = choose_files(name, listed, wanted)
        return PullPlan(
            name, str(info.sha), files, single, licences[0] if licences else "unknown", dest
        )

    def explain(self, name: str, revision: str | None, error: Exception) -> SourceError:
        """Our error for one of theirs."""
        errors = self.errors
        if isinstance(error, errors.GatedRepoError):
            return SourceError(
                f"{name} asks you to accept its terms: do so on its page on the hub, then log in "
                "with: hf auth login"
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return SourceError(f"{name} has no revision {revision!r}")
        if isinstance(error, errors.RepositoryNotFoundError):
            return SourceError(
                f"the hub has no model {name!r}, or it is private: check the name, or log in "
                "with: hf auth login"
            )
        if isinstance(error, errors.OfflineModeIsEnabled):
            return SourceError(f"{name} cannot be fetched: HF_HUB_OFFLINE is set")
        if isinstance(error, errors.HfHubHTTPError):
            line = (str(error).strip().splitlines() or ["no reason given"])[0]
            return SourceError(f"the hub refused {name}: {line}")
        if isinstance(error, errors.HTTPError | OSError):
            return SourceError(
                f"{name} cannot be fetched: the hub cannot be reached ({error or 'no answer'}); "
                "are you online?"
            )
        return SourceError(f"the hub's answer about {name} makes no sense: {error}")

    def stream(
        self, plan: PullPlan, file: PullFile, start: int
    ) -> contextlib.AbstractContextManager[Any]:
        """An open response with the file's bytes from ``start`` on."""
        url = self.library.hf_hub_url(
            plan.repo, file.path, revision=plan.revision, endpoint=self.endpoint
        )
        # Compression would make byte ranges meaningless.
        headers = {**self.utils.build_hf_headers(), "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        made: contextlib.AbstractContextManager[Any] = self.utils.get_session().stream(
            "GET", url, headers=headers, timeout=TIMEOUT_SECONDS, follow_redirects=True
        )
        return made


def _prepare(staging: Path, plan: PullPlan) -> None:
    """Make the folder downloads come into, keeping what an earlier attempt at the same files got.

    A folder that belongs to another model or revision is emptied first.
    """
    state = json.dumps({"repo": plan.repo, "revision": plan.revision})
    path = staging / STATE
    same = path.is_file() and path.read_text(encoding="utf-8") == state
    if staging.exists() and not same:
        shutil.rmtree(staging)
    staging.mkdir(parents=True, exist_ok=True)
    path.write_text(state, encoding="utf-8")


def _fetch(
    hub: _Hub, plan: PullPlan, file: PullFile, staging: Path, done: int, progress: Progress | None
) -> int:
    """Fetch one file, going on where an earlier attempt stopped; returns all bytes done."""
    path = staging / file.path
    path.parent.mkdir(parents=True, exist_ok=True)

    def report(size: int) -> None:
        if progress is not None:
            progress(file.path, done + size, plan.size)

    failures = 0
    while _size(path) != file.size or not path.exists():
        before = _size(path)
        if before > file.size:
            path.unlink()
            before = 0
        try:
            _transfer(hub, plan, file, path, before, report)
        except (hub.errors.HTTPError, TimeoutError, ConnectionError) as error:
            failures = failures + 1 if _size(path) <= before else 1
            refused = isinstance(error, hub.errors.HfHubHTTPError)
            if refused or failures >= ATTEMPTS:
                raise hub.explain(plan.repo, plan.revision, error) from error
            time.sleep(PAUSE_SECONDS)
        else:
            if _size(path) < file.size and _size(path) <= before:
                raise SourceError(
                    f"{file.path}: the hub sends {_size(path)} of {file.size} bytes; try again"
                )
    report(file.size)
    _verify(path, file)
    return done + file.size


def _transfer(
    hub: _Hub, plan: PullPlan, file: PullFile, path: Path, start: int, report: Callable[[int], None]
) -> None:
    with hub.stream(plan, file, start) as response:
        if response.status_code >= 400:
            response.read()
            hub.utils.hf_raise_for_status(response)
        # A server that knows no ranges sends the file from its beginning.
        place = start if response.status_code == 206 else 0
        with path.open("ab") as stream:
            stream.truncate(place)
            for piece in response.iter_bytes():
                stream.write(piece)
                place += len(piece)
                if place > file.size:
                    break
                report(place)
    if place > file.size:
        path.unlink()
        raise SourceCorrupt(f"{file.path}: the hub sends more than the {file.size} bytes it states")


def _verify(path: Path, file: PullFile) -> None:
    """Compare with the checksum the hub states: SHA-256 of large files, git's of small ones."""
    if file.sha256 is not None:
        digest = hashlib.sha256()
        stated = file.sha256
    elif file.git_sha1 is not None:
        digest = hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
        stated = file.git_sha1
    else:
        raise SourceError(f"{file.path}: the hub states no checksum; not used")
    with path.open("rb") as stream:
        while piece := stream.read(CHUNK):
            digest.update(piece)
    if digest.hexdigest() != stated:
        path.unlink()
        raise SourceCorrupt(
            f"{file.path}: checksum {digest.hexdigest()[:16]}..., the hub states {stated[:16]}...; "
            "it was deleted, pull again"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _is_empty(folder: Path) -> bool:
    return all(path.name in LITTER for path in folder.iterdir())


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
