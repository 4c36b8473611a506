"""The command line: exit codes, one JSON object, one message and no traceback, light to start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medcl import cli
from medcl.foundation.errors import UserError

COMMANDS = ("demo", "ingest", "convert", "prepare", "preview", "pretrain", "evaluate", "embed", "export", "report", "doctor")


def medcl(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "medcl", *arguments], capture_output=True, text=True, cwd=cwd, timeout=120)


def test_help_lists_every_command_of_the_contract():
    result = CliRunner().invoke(cli.app, ["--help"], env={"COLUMNS": "120"})
    assert result.exit_code == 0
    assert all(f" {name} " in result.output for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_and_the_common_options(command):
    result = CliRunner().invoke(cli.app, [command, "--help"], env={"COLUMNS": "120"})
    assert result.exit_code == 0
    assert f"Example: medcl {command}" in " ".join(result.output.split())
    assert "--json" in result.output and "--quiet" in result.output


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("demo", ["--out", "--minutes"]),
        ("ingest", ["--out", "--reports", "--labels", "--settings", "--jobs"]),
        ("prepare", ["--out", "--recipe", "--jobs", "--dry-run"]),
        ("preview", ["--policy", "--paired", "--config", "--out"]),
        ("pretrain", ["--out"]),
        ("evaluate", ["--out", "--jobs", "--dask", "--task", "--tasks"]),
        ("embed", ["--out"]),
        ("convert", ["--out"]),
        ("export", ["--to", "--out"]),
        ("report", ["--out"]),
    ],
)
def test_options_are_those_of_the_contract(command, options):
    output = CliRunner().invoke(cli.app, [command, "--help"], env={"COLUMNS": "120"}).output
    assert all(option in output for option in options)


def test_help_is_light():
    """No torch, MONAI, TorchIO, pandas or numpy for a help page, nor for `import medcl`."""
    code = (
        "import sys; sys.argv = ['medcl', '--help']; import medcl; from medcl.cli import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'monai', 'torchio', 'pandas', 'numpy', 'pydantic', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("given", [("pretrain", "nowhere.yaml"), ("evaluate", "nowhere.yaml"), ("pretrain", "empty.yaml", "steps")])
def test_a_mistyped_line_is_refused_before_anything_slow_is_loaded(given, tmp_path):
    (tmp_path / "empty.yaml").write_text("{}")
    code = "import sys; from medcl.cli import main\ntry: main()\nfinally: print({'torch', 'monai'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "set()\n"), result.stderr
    assert given[-1] in result.stderr


@pytest.mark.parametrize(("said", "turns"), [({}, "30000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "None")])
def test_waiting_threads_sleep_soon_unless_told_otherwise(said, turns):
    script = "import os, sys\nfrom medcl.cli import main\ntry:\n    main()\nfinally:\n    print(os.environ.get('GOMP_SPINCOUNT'))"
    surroundings = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")} | said
    run = subprocess.run([sys.executable, "-c", script, "--version"], capture_output=True, text=True, env=surroundings, check=True)
    assert run.stdout.split()[-1] == turns


def test_help_answers_in_half_a_second_of_processor_time():
    """CPU seconds, so that other work on the machine does not count; the best of three."""
    import resource

    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert medcl("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < 0.5, spent


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["preparre"], "No such command 'preparre'"),
        (["prepare"], "Missing argument"),
        (["prepare", "data", "--recpie", "ct"], "No such option: --recpie"),
        (["prepare", "data", "--out", "x", "--jobs", "none"], "--jobs"),
        (["export", "run", "--to", "torchscript", "--out", "x"], "--to"),
    ],
)
def test_wrong_usage_is_exit_2_with_one_message_and_the_way_to_help(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["medcl", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    output = capsys.readouterr()
    assert end.value.code == 2 and output.out == ""
    assert message in output.err and "--help" in output.err and "Traceback" not in output.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["ingest", "nowhere", "--out", "data"], 2, "nowhere"),
        (["ingest", "empty", "--out", "data"], 3, "nothing usable"),
        (["convert", "empty", "--out", "nifti"], 3, "nothing usable"),
        (["prepare", "empty", "--out", "store"], 2, "card.json"),
        (["prepare", "nowhere", "--out", "store", "--recipe", "ct"], 2, "no such folder"),
        (["preview", "empty", "--out", "preview"], 2, "card.json"),
        (["preview", "empty", "--config", "run.yaml", "--paired", "--out", "preview"], 2, "leave out those options"),
        (["pretrain", "nowhere.yaml"], 2, "nowhere.yaml: no such settings file"),
        (["evaluate", "nowhere.yaml"], 2, "nowhere.yaml: no such settings file"),
        (["embed", "empty", "scan.nii.gz", "--out", "e.parquet"], 2, "card.json"),
        (["export", "nowhere", "--to", "onnx", "--out", "onnx"], 2, "nowhere: no such folder"),
        (["report", "nowhere", "--out", "page.html"], 2, "nowhere"),
    ],
)
def test_what_the_user_gave_wrongly_is_one_message_without_traceback(arguments, code, message, tmp_path, monkeypatch, capfd):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["medcl", *arguments, "--quiet"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    output = capfd.readouterr()
    assert end.value.code == code, output.err
    assert message in output.err and "Traceback" not in output.err and output.out == ""


@pytest.mark.parametrize("text", ["96", "96,96,96,96", "a,b", "0,1,2", ""])
def test_size_is_checked(text):
    with pytest.raises(UserError, match=r"--size .*: expected two or three whole numbers"):
        cli._size(text)


def test_size_is_read():
    assert cli._size("96,96,64") == (96, 96, 64) and cli._size(None) is None


def test_preview_fits_its_views_to_the_store(tmp_path, monkeypatch, capfd):
    """Without --size: what the median scan fills, in steps of 8."""
    import numpy as np

    from medcl.foundation.progress import Silent
    from medcl.foundation.types import Volume
    from medcl.store.prepare import prepare_data
    from medcl.store.recipe import load_recipe
    from tests.store.made_data import MadeData

    draw = np.random.default_rng(0)
    pictures = {str(n): Volume(draw.random((70, 50, 1), np.float32), np.eye(4), "xray", "display", "picture") for n in range(3)}
    prepare_data(MadeData(pictures), "hash", tmp_path / "store", load_recipe("xray"), jobs=1, progress=Silent())
    monkeypatch.setattr(sys, "argv", ["medcl", "preview", str(tmp_path / "store"), "--out", str(tmp_path / "preview"), "--json"])
    with pytest.raises(SystemExit):
        cli.main()
    answer = json.loads(capfd.readouterr().out)
    audit = answer["result"] if answer["ok"] else json.loads((tmp_path / "preview" / "audit.json").read_text())
    assert audit["views"]["size"] == [48, 64] and (tmp_path / "preview" / "index.html").is_file()
