"""Which part may import which, and what importing sdlite must not load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdlite.registry import BUILT_IN

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "sdlite": ROOT / "sdlite",
    "sdlite_runtimes": ROOT / "runtimes" / "sdlite_runtimes",
    "sdlite_export": ROOT / "export" / "sdlite_export",
}
REFERENCES = ("torch", "diffusers", "transformers", "optimum")
ENGINES = ("onnxruntime", "openvino", "coremltools")

# docs/design.md draws these layers; a module may import its own layer and those before it.
LAYERS = (
    ("errors", "loras", "controls", "conds", "types", "choices", "profiles"),
    ("schema", "engine", "tensors", "adapterentry", "weightfile", "wire"),
    ("manifest",),
    ("package", "noise"),
    (
        "destination",
        "hardware",
        "memory",
        "trial",
        "registry",
        "chain",
        "tiles",
        "ports",
        "calls",
        "onnxfile",
        "irfile",
        "foreign",
        "foreigngraphs",
        "applefolder",
        "compilecache",
    ),
    ("text", "sampling", "image", "weights", "metadata", "carried", "output", "preview"),
    (
        "settings",
        "home",
        "footprint",
        "engines",
        "plans",
        "ladder",
        "planner",
        "request",
        "control",
        "edit",
        "components",
        "recorder",
        "assets",
        "adapters",
        "upscalers",
        "changes",
        "seamless",
        "downsampling",
        "safety",
    ),
    ("forecast", "calibrate"),
    ("phases", "run", "pipeline"),
    ("tune", "api", "outpaint", "tiled", "grid", "bake", "deadline"),
    ("doctor", "repeat"),
    ("cli", "server"),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

ALLOWED_TO_RUNTIMES = {"engine", "types", "errors", "onnxfile", "irfile", "hardware"}
ALLOWED_TO_RUNTIMES |= {"compilecache", "memory"}
ALLOWED_TO_EXPORT = {"choices", "manifest", "package", "types", "errors", "engine", "schema"}
ALLOWED_TO_EXPORT |= {"adapterentry", "foreign", "memory", "noise", "onnxfile", "tensors"}
ALLOWED_TO_EXPORT |= {"destination", "weightfile", "controls"}
ALLOWED_TO_VERIFY = ALLOWED_TO_EXPORT | {"registry", "chain"}
"""Comparing graphs needs an engine: only there, and through the registry."""
ALLOWED_TO_CALIBRATE = ALLOWED_TO_VERIFY | {"pipeline", "planner", "ports"}
"""Measuring ranges is drawing pictures."""
ALLOWED_TO_EIGHTBIT = ALLOWED_TO_VERIFY | {"image"}
"""An upscaler's ranges are measured on pictures."""


def modules() -> Iterator[tuple[str, Path]]:
    for name, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = (name, *path.relative_to(folder).with_suffix("").parts)
            yield ".".join(part for part in parts if part != "__init__"), path


MODULES = dict(modules())


def imports(name: str) -> set[str]:
    """Modules a module names in import statements, also inside functions, but not for types."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package.split(".")[: 1 - node.level or None], base]).strip(".")
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                found.add(whole if whole in MODULES else base)
        pending.extend(ast.iter_child_nodes(node))
    return found


def part(name: str) -> str:
    """``sampling`` for ``sdlite.sampling.rng``; ``sdlite`` for the package itself."""
    return name.split(".")[1] if "." in name else name


@pytest.mark.parametrize("name", MODULES)
def test_arrows_point_one_way(name: str) -> None:
    for target in imports(name):
        top = target.partition(".")[0]
        assert top not in REFERENCES, f"{name} imports {target}"
        if name.startswith("sdlite."):
            assert top not in ("sdlite_runtimes", "sdlite_export"), f"{name} imports {target}"
            assert top not in ENGINES, f"{name} imports {target}"
            if top == "sdlite" and target != "sdlite":
                assert RANK[part(target)] <= RANK[part(name)], f"{name} imports {target}"
        if name.startswith("sdlite_runtimes") and top == "sdlite":
            assert part(target) in ALLOWED_TO_RUNTIMES, f"{name} imports {target}"
        if name.startswith("sdlite_export") and top == "sdlite":
            special = {
                "sdlite_export.verify": ALLOWED_TO_VERIFY,
                "sdlite_export.scan": ALLOWED_TO_VERIFY,
                "sdlite_export.calibrate": ALLOWED_TO_CALIBRATE,
                "sdlite_export.emit.ir": ALLOWED_TO_VERIFY,
                "sdlite_export.upscaler.eightbit": ALLOWED_TO_EIGHTBIT,
            }
            allowed = special.get(name, ALLOWED_TO_EXPORT)
            assert part(target) in {*allowed, "sdlite"}, f"{name} imports {target}"
        if name.startswith("sdlite_export"):
            assert top != "sdlite_runtimes", f"{name} imports {target}"
            # What writes a format may use that format's library; it is loaded when it is needed.
            writer = top == "coremltools" and name.startswith("sdlite_export.emit.coreml.")
            writer = writer or (top == "openvino" and name == "sdlite_export.emit.ir")
            assert writer or top not in ENGINES, f"{name} imports {target}"


def test_every_part_has_a_layer() -> None:
    parts = {part(name) for name in MODULES if name.startswith("sdlite.")}
    assert parts <= RANK.keys()


def loaded_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_importing_sdlite_loads_next_to_nothing() -> None:
    loaded = loaded_after("import sdlite")
    assert not loaded & {*REFERENCES, *ENGINES}
    assert not loaded & {"numpy", "PIL", "tokenizers", "onnx", "click", "tqdm"}
    assert not loaded & {"sdlite_runtimes", "sdlite_export"}


def test_the_command_line_starts_without_numpy() -> None:
    loaded = loaded_after("import sdlite.cli")
    assert not loaded & {*REFERENCES, *ENGINES, "numpy", "PIL", "tokenizers", "onnx", "tqdm"}


def test_no_module_of_the_library_loads_an_engine() -> None:
    names = [name for name in MODULES if name.startswith("sdlite.") and "__main__" not in name]
    loaded = loaded_after("\n".join(f"import {name}" for name in names))
    assert not loaded & {*REFERENCES, *ENGINES}
    assert not loaded & {"sdlite_runtimes", "sdlite_export"}


def test_no_module_at_all_loads_torch_or_an_engine() -> None:
    pytest.importorskip("onnx", reason="sdlite_export needs the extra [export]")
    names = [name for name in MODULES if "__main__" not in name]
    loaded = loaded_after("\n".join(f"import {name}" for name in names))
    assert not loaded & {*REFERENCES, *ENGINES}


@pytest.mark.parametrize("name", MODULES)
def test_files_are_small(name: str) -> None:
    adapters = {target.partition(":")[0] for target in BUILT_IN.values()}
    lines = len(MODULES[name].read_text(encoding="utf-8").splitlines())
    assert lines <= (200 if name in adapters else 400)
