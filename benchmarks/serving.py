"""A server in a process of its own, for the programs that measure it."""

from __future__ import annotations

import http.client
import json
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = (sys.executable, "-m", "sdlite.cli")


class Running:
    """A server in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Status and body of an answer, over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def hang_up(self, path: str, body: Any, after: float) -> None:
        """Send a request and close the connection before the answer."""
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(head.encode() + data)
            time.sleep(after)

    def figure(self, name: str) -> float:
        """A figure of ``/metrics``."""
        text = self.ask("GET", "/metrics")[1].decode()
        return float(next(line for line in text.splitlines() if line.startswith(name)).split()[-1])

    def processor_seconds(self) -> float:
        """Processor time taken so far; Linux only, else not a number."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return math.nan
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> tuple[float, float]:
        """Private and mapped bytes."""
        private = self.figure('sdlite_memory_bytes{kind="private"}')
        return private, self.figure('sdlite_memory_bytes{kind="mapped"}')


@contextmanager
def serving(model: str, *options: str, program: Sequence[str] = PROGRAM) -> Iterator[Running]:
    """A server from its start to its end."""
    command = [*program, "serve", "--port", "0", "--model", model, *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield Running(process, int(process.stdout.readline().rpartition(":")[2]))
        finally:
            process.terminate()
