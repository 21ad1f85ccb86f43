"""The file behind ``--state``: SQLite from Python's own library, one server at a time."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sdlite.errors import OutputError, RequestError

VERSION = 1
TABLES = """
BEGIN;
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    client TEXT NOT NULL,
    source TEXT NOT NULL,
    model TEXT NOT NULL,
    work REAL NOT NULL,
    requests TEXT NOT NULL,
    about TEXT NOT NULL,
    state TEXT NOT NULL,
    created REAL NOT NULL,
    seconds REAL NOT NULL DEFAULT 0,
    share REAL NOT NULL DEFAULT 0,
    done INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    notes TEXT NOT NULL DEFAULT '[]',
    error TEXT,
    error_kind TEXT
);
CREATE INDEX jobs_of_client ON jobs (client, number);
CREATE INDEX jobs_of_state ON jobs (state);
CREATE TABLE inputs (
    job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    png BLOB NOT NULL,
    PRIMARY KEY (job, number)
);
CREATE TABLE pictures (
    job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    seed TEXT NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    infotext TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (job, number)
);
PRAGMA user_version = 1;
COMMIT;
"""


class Database:
    """A file of tables; may be used from any thread.

    Args:
        path: made when it is not there.

    Raises:
        RequestError: another process has it open, or it is none of ours.
        OutputError: it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        with self._errors():
            # Transactions are begun where they are needed, and nowhere else.
            self._connection = sqlite3.connect(
                path, timeout=0.0, isolation_level=None, check_same_thread=False
            )
        try:
            with self._errors():
                self._begin()
        except BaseException:
            self._connection.close()
            raise

    def _begin(self) -> None:
        connection = self._connection
        connection.row_factory = sqlite3.Row
        # Held until the process ends, in whatever way: the lock is the operating system's.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            connection.executescript(TABLES)
        elif version != VERSION:
            raise RequestError(
                f"{self._path} was written by another version of sdlite; "
                "use that version, or another folder for --state"
            )

    def close(self) -> None:
        """Let go of the file; may be called twice."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """What is done within is written as a whole, and has been when this ends."""
        with self._lock, self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def teach(self, name: str, arguments: int, function: Callable[..., bool]) -> None:
        """Let queries use a function."""
        self._connection.create_function(name, arguments, function, deterministic=True)

    def run(self, text: str, *values: Any) -> None:
        """Carry out a statement."""
        with self._lock, self._errors():
            self._connection.execute(text, values)

    def run_many(self, text: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Carry out a statement for every row."""
        with self._lock, self._errors():
            self._connection.executemany(text, rows)

    def rows(self, text: str, *values: Any) -> list[sqlite3.Row]:
        """What a query finds."""
        with self._lock, self._errors():
            return self._connection.execute(text, values).fetchall()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if "locked" in str(error):
                raise RequestError(
                    f"another server uses {self._path.parent}; end it, or give another --state"
                ) from error
            if isinstance(error, sqlite3.DatabaseError) and "not a database" in str(error):
                raise RequestError(f"{self._path} is no file of sdlite's") from error
            raise OutputError(f"cannot use {self._path}: {error}") from error
