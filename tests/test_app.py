"""The program as a shell starts it: where it refuses to run, closed pipes, completion."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(code: str, *path: Path, **named: object) -> "subprocess.CompletedProcess[str]":
    found = os.pathsep.join(str(each) for each in (*path, ROOT))
    return subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=os.environ | {"PYTHONPATH": found},
        text=True,
        timeout=60,
        **{"capture_output": True, **named},  # type: ignore[call-overload]
    )


@pytest.mark.parametrize("name", ["ui", "storage", "pipelines", "dataengine"])
def test_another_package_of_our_name_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("raise RuntimeError('somebody else')")
    done = run("import app; app.main(['--help'])", tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith(f"clinic: the Python package {name!r}")
    assert str(tmp_path / name) in done.stderr and "environment of its own" in done.stderr


def test_a_folder_without_code_of_our_name_does_not_disturb(tmp_path: Path) -> None:
    (tmp_path / "storage").mkdir()
    assert run("import app", tmp_path).returncode == 0


def test_windows_is_refused_in_one_sentence_before_anything_of_unix_is_imported() -> None:
    unix = ("fcntl", "resource", "pwd", "grp", "termios")
    code = (
        f"import sys; sys.platform = 'win32'; sys.modules.update(dict.fromkeys({unix}));"
        "import app; app.main(['--help'])"
    )
    done = run(code)
    assert done.returncode == 1 and done.stdout == ""
    assert (
        done.stderr
        == "clinic: Windows itself is not supported; run it in WSL2, where everything works as on Linux\n"
    )


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["status", "--json"], 141),
        (["status"], 141),
        (["round", "--help"], 0),
        (["generators", "--set"], 2),
    ],
)
def test_a_reader_that_has_gone_is_no_traceback(tmp_path: Path, words: list[str], status: int) -> None:
    from storage.opening import create_workspace

    create_workspace(tmp_path / "w").close()
    reading, writing = os.pipe()
    os.close(reading)
    code = f"import sys, app; sys.exit(app.main({['--workspace', str(tmp_path / 'w'), *words]}))"
    done = run(code, capture_output=False, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert done.returncode == status
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr
    assert done.stderr == "" or status == 2


def test_another_broken_pipe_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.cli import main

    def fail(*_: object) -> int:
        raise BrokenPipeError("of a child process")

    monkeypatch.setattr(main, "run", fail)
    with pytest.raises(BrokenPipeError, match="of a child"):
        main.main(())


def completed(script: Path, line: str) -> list[str]:
    """What bash offers for the last word of a line."""
    code = (
        f"source {script}; COMP_LINE='{line}'; COMP_WORDS=({line});"
        "COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMP_POINT=${#COMP_LINE};"
        "$(complete -p clinic | sed 's/.*-F \\([^ ]*\\).*/\\1/'); printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=60)
    return done.stdout.split()


def test_bash_completes_commands_options_and_choices(tmp_path: Path) -> None:
    script = tmp_path / "clinic.bash"
    script.write_text(run("import app; app.main(['--print-completion', 'bash'])").stdout)
    assert {"demo", "detectors", "diagnose"} <= set(completed(script, "clinic d"))
    assert "generators" not in completed(script, "clinic d")
    assert {"--recipe", "--seed", "--workspace"} <= set(completed(script, "clinic demo --"))
    assert completed(script, "clinic --print-completion z") == ["zsh"]


@pytest.mark.parametrize(("shell", "mark"), [("zsh", "#compdef clinic"), ("fish", "complete -c clinic")])
def test_the_other_shells_get_every_command(shell: str, mark: str) -> None:
    text = run(f"import app; app.main(['--print-completion', '{shell}'])").stdout
    from app import COMMANDS

    assert mark in text
    assert not [command.name for command in COMMANDS if command.name not in text]


HEEDED = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
"""A shell's background jobs ignore interrupts, and so do the processes that they start."""


@pytest.mark.timeout(240)
def test_the_server_says_where_it_is_and_ends_on_an_interrupt(tmp_path: Path) -> None:
    """`clinic gradio` runs what `clinic app` runs."""
    words = [
        "--workspace",
        str(tmp_path / "w"),
        "gradio",
        "--port",
        "0",
        "--no-worker",
        "--set",
        "desks=false",
    ]
    with subprocess.Popen(
        [sys.executable, "-P", "-c", f"{HEEDED}import sys, app; sys.exit(app.main({words}))"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as running:
        assert running.stdout is not None and running.stderr is not None
        first = running.stdout.readline()
        running.send_signal(signal.SIGINT)
        problem = running.stderr.read()
    assert first.startswith("Artifact Clinic: http://127.0.0.1:") and "/gradio?token=" in first, problem
    assert "Traceback" not in problem, problem
