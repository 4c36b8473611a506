"""What every command does alike: exit codes, one JSON object, one message, a traceback that tells nothing private."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

import medcl
from medcl.foundation.conversation import Conversation
from medcl.foundation.errors import DataError, Stopped, UserError


def talk_and_raise(error: BaseException, as_json: bool = False) -> int:
    with pytest.raises(SystemExit) as end, Conversation("try", as_json, quiet=True):
        raise error
    return end.value.code


@pytest.mark.parametrize(
    ("error", "code"),
    [(UserError("wrong"), 2), (DataError("empty"), 3), (Stopped("saved"), 75), (KeyboardInterrupt(), 130)],
)
def test_exit_codes_of_the_contract(error, code, capsys):
    assert talk_and_raise(error) == code
    output = capsys.readouterr()
    assert output.err.startswith("try: ") and "Traceback" not in output.err


def test_a_full_disk_or_a_forbidden_folder_is_explained(capsys):
    import errno

    assert talk_and_raise(OSError(errno.ENOSPC, "No space left on device", "/big/store")) == 2
    assert "/big/store: No space left on device; choose another --out" in capsys.readouterr().err


def test_a_bug_leaves_its_traceback_in_a_private_file(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    secret = "value-of-a-local"
    try:
        assert secret
        raise ZeroDivisionError("the message")
    except ZeroDivisionError as error:
        assert talk_and_raise(error) == 1
    message = capsys.readouterr().err
    (path,) = tmp_path.glob("medcl-*.traceback.txt")
    assert str(path) in message and "ZeroDivisionError: the message" in message and "Traceback" not in message.splitlines()[0]
    text = path.read_text()
    assert "test_conversation.py" in text and "ZeroDivisionError" in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_bug_where_identifiers_are_read_withholds_the_message(capsys, tmp_path, monkeypatch):
    """An exception that passed through ingest may quote a header: file and terminal get its type only."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    name = "DOE^JOHN 1961-04-01"
    code = compile("raise KeyError(name)", str(Path(medcl.__file__).parent / "ingest" / "dicom.py"), "exec")
    try:
        exec(code, {"name": name})
    except KeyError as error:
        try:
            raise RuntimeError(f"while reading {name}") from error
        except RuntimeError as outer:
            assert talk_and_raise(outer) == 1
    (path,) = tmp_path.glob("medcl-*.traceback.txt")
    for text in (capsys.readouterr().err, path.read_text()):
        assert "DOE" not in text and "1961" not in text and "RuntimeError" in text
    assert "KeyError" in path.read_text()


def test_what_another_process_met_is_withheld_too(capsys, tmp_path, monkeypatch):
    """A child's exception comes with its traceback as text, message included."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    class RemoteTraceback(Exception):
        pass

    told = 'Traceback:\n  File "/site-packages/medcl/ingest/dicom.py", line 5, in f\nKeyError: DOE^JOHN'
    try:
        raise KeyError(told[-8:]) from RemoteTraceback(told)
    except KeyError as error:
        assert talk_and_raise(error) == 1
    (path,) = tmp_path.glob("medcl-*.traceback.txt")
    for text in (capsys.readouterr().err, path.read_text()):
        assert "DOE" not in text and "KeyError" in text


def test_json_is_one_object_on_stdout_whatever_libraries_print(capfd):
    import os

    with Conversation("try", True, quiet=False) as talk:
        print("a library talks")
        os.write(1, b"from C too\n")
        talk.progress.say("halfway")
        talk.done(["it is done"], {"path": Path("a/b"), "count": 2}, next="go on")
    output = capfd.readouterr()
    assert json.loads(output.out) == {
        "command": "try", "ok": True, "exit": 0, "result": {"path": "a/b", "count": 2}, "next": "go on",
    }  # fmt: skip
    assert all(line in output.err for line in ("a library talks", "from C too", "halfway", "it is done", "Next: go on"))


def test_json_says_failures_too(capfd):
    assert talk_and_raise(UserError("file x: no field y; add it"), as_json=True) == 2
    output = capfd.readouterr()
    assert json.loads(output.out) == {"command": "try", "ok": False, "exit": 2, "error": "try: file x: no field y; add it"}


def test_plain_answer_ends_with_what_to_do_next_and_quiet_says_nothing(capsys):
    with Conversation("try", False, quiet=False) as talk:
        talk.done(["one", "two"], {}, next="medcl demo")
    assert capsys.readouterr().out.splitlines() == ["one", "two", "Next: medcl demo"]
    with Conversation("try", False, quiet=True) as talk:
        talk.done(["one"], {}, next="medcl demo")
    assert capsys.readouterr().out == ""


def test_a_person_is_told_what_takes_seconds_and_a_log_is_not(capsys, monkeypatch):
    Conversation("embed", False, quiet=False, loads=True)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    Conversation("embed", False, quiet=True, loads=True)
    Conversation("preview", False, quiet=False)
    assert capsys.readouterr().err == ""
    Conversation("embed", False, quiet=False, loads=True)
    assert capsys.readouterr().err == "embed: loading torch and MONAI\n"


def test_processes_without_lines_stay_silent(capfd):
    with Conversation("pretrain", True, quiet=False) as talk:
        talk.done([], {"run": "x"}, next="y")
    assert capfd.readouterr().out == ""
