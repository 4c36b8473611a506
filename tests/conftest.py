"""What every test may ask for."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scans (see shared/data/SOURCES.md), or a skip where it is absent."""
    folder = Path(os.environ.get("MEDCL_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set MEDCL_TEST_DATA")
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """medcl never talks to the outside: connecting anywhere but to this machine fails the test."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address):
        inside = self.family == socket.AF_UNIX or str(address[0]) in ("127.0.0.1", "::1", "localhost")
        if not inside:
            raise AssertionError(f"network call to {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
