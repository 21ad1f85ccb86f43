"""A hard memory limit for one command, by a control group of its own (Linux, as root).

The limit counts private memory and the file pages the group brought in; the system drops file pages
to stay below it, and ends the process when private memory alone does not fit.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


@contextmanager
def memory_limit(limit: int) -> Iterator[Sequence[str]]:
    """Words to put before a command so that it runs under ``limit`` bytes.

    Raises ``OSError`` where groups cannot be made.
    """
    old = ROOT / "memory"
    parent, knob, members = (
        (old, "memory.limit_in_bytes", "cgroup.procs")
        if old.is_dir()
        else (ROOT, "memory.max", "cgroup.procs")
    )
    group = parent / f"sdlite-bench-{os.getpid()}"
    group.mkdir()
    try:
        (group / knob).write_text(str(limit))
        if (group / "memory.swap.max").exists():
            (group / "memory.swap.max").write_text("0")
        yield ["sh", "-c", f'echo $$ > "{group / members}" && exec "$@"', "sh"]
    finally:
        # Pages still charged to the group move to its parent when it goes.
        with contextlib.suppress(OSError):
            group.rmdir()
