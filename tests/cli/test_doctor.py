"""The doctor says what is missing and how to get it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from medcl import doctor
from medcl.views import device_noise


def test_a_whole_installation_is_healthy(tmp_path):
    found = doctor.examine(tmp_path)
    assert found.healthy
    names = {finding["name"] for finding in found.findings}
    assert {"python", "torch", "monai", "codecs", "onnx", "cores", "memory", "disk", "temporary"} <= names
    assert all(finding["way_out"] == "" for finding in found.findings if finding["status"] == "ok")


@pytest.mark.parametrize(
    ("installed", "problem"),
    [(None, "not installed"), ("1.9.0", "1.9.0 does not fit >=2.8"), ("2.10.1+cpu", ""), ("3.0", "3.0 does not fit <3")],
)
def test_versions_are_compared_as_numbers(monkeypatch, installed, problem):
    monkeypatch.setattr(doctor, "_version", lambda name: installed)
    assert doctor._problem("torch>=2.8,<3") == problem


def test_a_missing_package_is_named_with_its_command(monkeypatch, tmp_path):
    known = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in ("pydicom", "onnxruntime") else known(name))
    found = doctor.examine(tmp_path)
    assert not found.healthy and found.next.startswith("pip install 'pydicom")
    text = "\n".join(found.lines)
    assert "onnxruntime not installed: no medcl export --to onnx" in text and "pip install 'medcl[onnx]'" in text


def test_trackers_that_are_not_installed_are_said_and_are_not_what_to_do_next(monkeypatch, tmp_path):
    known = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "wandb" else known(name))
    found = doctor.examine(tmp_path)
    assert "pip install 'medcl[wandb]'" in "\n".join(found.lines) and "wandb" not in found.next


@pytest.mark.parametrize(("kernel", "status", "said"), [(object(), "ok", "kernel of its own"), (None, "missing", "Triton cannot compile")])
def test_whether_a_gpu_can_compile_is_said(monkeypatch, kernel, status, said):
    monkeypatch.setattr(device_noise, "kernel_on", lambda device: kernel if device.index == 1 else pytest.fail("another GPU"))
    found = doctor._gpu_views(1)
    assert (found.name, found.status) == ("gpu 1 views", status) and said in found.found and bool(found.way_out) == (kernel is None)


def test_a_full_disk_is_said(monkeypatch, tmp_path):
    import shutil
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 0))
    assert [finding["status"] for finding in doctor.examine(tmp_path).findings if finding["name"] == "disk"] == ["missing"]


def test_the_command_answers_in_json():
    result = subprocess.run([sys.executable, "-m", "medcl", "doctor", "--json"], capture_output=True, text=True, timeout=120)
    content = json.loads(result.stdout)
    assert result.returncode == 0 and content["ok"] and content["result"]["findings"]
