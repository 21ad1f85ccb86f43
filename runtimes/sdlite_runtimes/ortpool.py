"""One pool of memory for all sessions of a chain, given back when the last of them is closed.

Graphs that run one after another need the same memory one after another. Allocated and freed each
time it costs a page fault for every 4 KiB of it, a fifth of the time of a mapped U-Net call, and
holes that make the peak higher. ONNX Runtime can share one arena between sessions, so that what one
leaves the next takes. It takes its memory from the system in regions and gives a region back only
when told to while a graph runs, and never the first; so the first one is made small, and the graph
that is run is one of one number.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from sdlite_runtimes import ortsupport

FIRST_BYTES = 1 << 16
"""The region that stays."""
REGION_BYTES = 384 << 20
"""The next one; of it only what is used takes memory. SD1.5's U-Net at 512x512 fits in."""
_lock = threading.Lock()
_users = 0
_flusher: Any = None


def join(ort: ModuleType, settings: Any) -> None:
    """Let the session that is made with ``settings`` allocate from the pool.

    When it is there ``enter`` has to be called.
    """
    global _flusher
    settings.add_session_config_entry("session.use_env_allocators", "1")
    with _lock:
        if _flusher is not None:
            return
        place = ort.OrtMemoryInfo(
            "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
        )
        regions = {
            "arena_extend_strategy": 0,
            "initial_chunk_size_bytes": FIRST_BYTES,
            "initial_growth_chunk_size_bytes": REGION_BYTES,
        }
        ort.create_and_register_allocator(place, ort.OrtArenaCfg(regions))
        own = ort.SessionOptions()
        own.add_session_config_entry("session.use_env_allocators", "1")
        own.intra_op_num_threads = own.inter_op_num_threads = 1
        own.log_severity_level = 4
        _flusher = ort.InferenceSession(ortsupport.TRIAL, own, providers=["CPUExecutionProvider"])
        _flush(ort)


def enter(ort: ModuleType) -> Callable[[], None]:
    """Count a session that uses the pool; returns what ends that, and does nothing if repeated.

    After the last one the system gets back what no array holds any longer.
    """
    global _users
    inside = True

    def leave() -> None:
        global _users
        nonlocal inside
        with _lock:
            if inside:
                inside = False
                _users -= 1
                if _users == 0:
                    _flush(ort)

    with _lock:
        _users += 1
    return leave


def _flush(ort: ModuleType) -> None:
    """Give regions back that are free; the next one will have the usual size."""
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    _flusher.run(None, {"x": np.zeros(1, np.float32)}, options)
