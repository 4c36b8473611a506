"""Tiny networks on one thread: with several, small kernels mostly wait for each other."""

from __future__ import annotations

from multiprocessing import forkserver

import pytest
import torch


def pytest_configure() -> None:
    """Start the process that `small_runs.start_processes` forks from: it imports torch once, while tests are being collected."""
    forkserver.set_forkserver_preload(["tests.training.small_runs"])
    forkserver.ensure_running()


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
