"""DVC under faults: killed while it writes, twice at once, under a person's configuration, ended by a signal.

The pipeline here is a toy of two stages, so that each fault costs a second; test_run.py has the real one.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import zc.lockfile

from saqlib import errors, paths, processes
from saqlib.pipeline import calls, run

PIPELINE = """
stages:
  first:
    cmd: python -c "open('a.txt', 'w').write('1')"
    outs: [a.txt]
  second:
    cmd: python -c "open('b.txt', 'w').write(open('a.txt').read() * 3)"
    deps: [a.txt]
    outs: [b.txt]
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with a pipeline of two stages, without git."""
    folder = tmp_path / "a 'b' %s é"
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc" / "config").write_text((paths.ROOT / ".dvc" / "config").read_text(encoding="utf-8"))
    (folder / "dvc.yaml").write_text(PIPELINE)
    return folder


def repro(folder) -> bool:
    """What a run does with the folder."""
    with calls.alone(folder):
        return calls.side_by_side(folder, ["repro"])


def outputs(folder) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("a.txt", "b.txt", "dvc.lock")}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"write"', b"a: [", b"schema: 'x\nstages"])
@pytest.mark.parametrize("name", ["dvc.lock", ".dvc/tmp/rwlock"])
def test_what_dvc_left_half_written_is_put_aside(folder, name, content, capfd):
    """It is said, and nothing is lost."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    calls.mend(folder)
    assert "is put aside" in capfd.readouterr().out
    assert (folder / f"{name}.damaged").read_bytes() == content and not (folder / name).exists()


def test_after_half_written_files_everything_comes_back_as_it_was(folder):
    """DVC takes it from its cache of runs, and writes the same dvc.lock."""
    assert repro(folder)
    before = outputs(folder)
    (folder / "dvc.lock").write_text("")
    (folder / ".dvc" / "tmp" / "rwlock").write_text("")
    assert repro(folder) and outputs(folder) == before


def test_a_folder_at_which_dvc_stops_is_refused_in_one_line(tmp_path):
    """Braces are places of values to a bar of DVC's; the run does not begin."""
    with pytest.raises(calls.CallError, match="brace in the name of a folder"), calls.alone(tmp_path / "a{b}c"):
        pass
    assert not (tmp_path / "a{b}c").exists()


def test_what_is_whole_stays(folder, capfd):
    """Also the lock of a run that has ended, whatever it lists."""
    assert repro(folder)
    dead = {"read": {}, "write": {"a.txt": {"pid": 2**22 + 1, "cmd": "dvc repro"}}}
    (folder / ".dvc" / "tmp" / "rwlock").write_text(json.dumps(dead))
    before = (folder / "dvc.lock").stat().st_ino
    calls.mend(folder)
    assert (folder / "dvc.lock").stat().st_ino == before and not list(folder.rglob("*.damaged"))


def test_nothing_is_put_aside_while_a_dvc_is_at_work(folder):
    """It may be writing just now."""
    (folder / "dvc.lock").write_text("")
    with processes.started([sys.executable, "-c", "import time; time.sleep(600)", "dvc"], folder):
        calls.mend(folder)
        assert (folder / "dvc.lock").exists()
    calls.mend(folder)
    assert not (folder / "dvc.lock").exists()


def test_parts_of_files_are_swept_before_a_run(folder):
    """What a killed writer left in a folder of outputs; nothing else."""
    for name in calls.WRITTEN:
        (folder / name / "below").mkdir(parents=True)
        (folder / name / "below" / ".abc.partial").write_text("half")
        (folder / name / "below" / "mine.partial").write_text("somebody's")
    calls.mend(folder)
    assert sorted(path.name for path in folder.rglob("*.partial")) == ["mine.partial"] * len(calls.WRITTEN)


def test_two_runs_at_once_are_one_run_and_one_line(folder):
    """The second stops at once and names the folder; after the first it may run."""
    code = f"from saqlib.pipeline.calls import alone; from pathlib import Path\nwith alone(Path({str(folder)!r})):"
    holding = f"{code}\n    print('mine', flush=True)\n    input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with processes.started([sys.executable, "-c", holding], paths.ROOT, **pipes) as first:
        assert first.stdout.readline() == "mine\n"
        with pytest.raises(calls.CallError) as error, calls.alone(folder):
            pass
        assert str(error.value) == f"another run works in {folder}; wait for its end, or stop it"
        first.communicate("\n")
    assert repro(folder)


def test_a_run_that_was_killed_locks_nobody_out(folder):
    """The system frees its lock."""
    code = f"from saqlib.pipeline.calls import alone; from pathlib import Path\nwith alone(Path({str(folder)!r})):"
    command = [sys.executable, "-c", f"{code}\n    import os, signal\n    os.kill(os.getpid(), signal.SIGKILL)"]
    assert subprocess.run(command, cwd=paths.ROOT).returncode == -signal.SIGKILL
    assert repro(folder)


def test_a_persons_configuration_and_shell_decide_nothing(folder, tmp_path, monkeypatch):
    """Outputs are files and no links, whatever DVC, the shell and git are told elsewhere."""
    mine = tmp_path / "mine"
    (mine / "dvc").mkdir(parents=True)
    (mine / "dvc" / "config").write_text(
        f"[cache]\n    type = symlink\n    dir = {tmp_path / 'shared'}\n[core]\n    autostage = true\n"
    )
    for name in ("XDG_CONFIG_HOME", "XDG_CONFIG_DIRS", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR"):
        monkeypatch.setenv(name, str(mine / "dvc" if name.startswith("DVC") else mine))
    others = {"SHELL": "/usr/sbin/nologin", "GIT_DIR": "/nowhere", "BASH_ENV": "/nowhere", "LC_ALL": "tr_TR.ISO-8859-9"}
    for name, value in others.items():
        monkeypatch.setenv(name, value)
    assert repro(folder)
    assert not any((folder / name).is_symlink() for name in outputs(folder)) and not (tmp_path / "shared").exists()


def test_by_hand_a_persons_cache_of_links_decides_nothing_either(folder, tmp_path):
    """`dvc repro`, as a person calls it, with its own configuration: outputs are files."""
    (tmp_path / "config").write_text("[cache]\n    type = symlink\n[core]\n    no_scm = true\n")
    variables = calls.environment(folder) | {"DVC_GLOBAL_CONFIG_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-m", "dvc", "repro"], cwd=folder, env=variables, check=True)
    (folder / "a.txt").unlink()
    subprocess.run([sys.executable, "-m", "dvc", "checkout"], cwd=folder, env=variables, check=True)
    assert (folder / "a.txt").read_text() == "1" and not (folder / "a.txt").is_symlink()


@pytest.mark.parametrize("trouble", ["another dvc", "broken pipeline", "no pipeline", "bad configuration"])
def test_what_cannot_be_checked_is_not_called_stale(folder, trouble, monkeypatch):
    """`make check` says that it could not look, and why, in one line; only a stage that would run is stale."""
    monkeypatch.setattr(paths, "ROOT", folder)
    if trouble == "another dvc":
        (folder / ".dvc" / "tmp").mkdir(exist_ok=True)
        held = zc.lockfile.LockFile(str(folder / ".dvc" / "tmp" / "lock"))
    elif trouble == "broken pipeline":
        (folder / "dvc.yaml").write_text("stages: [")
    elif trouble == "no pipeline":
        (folder / "dvc.yaml").unlink()
    else:
        (folder / ".dvc" / "config").write_text("[core]\n    analytics = perhaps\n")
    with pytest.raises(run.PipelineError) as error:
        run.check()
    assert str(error.value).startswith("whether results/ belong to the code could not be checked: ")
    assert str(error.value).isprintable()
    if trouble == "another dvc":
        held.close()
        with pytest.raises(run.PipelineError, match="do not belong to the code.*DVC would begin with first"):
            run.check()


@pytest.mark.parametrize("stage", ["first", "second"])
def test_killed_in_any_stage_the_same_command_goes_on(folder, stage, tmp_path):
    """SIGKILL for all at once, as when the power fails; then the same bytes as without it."""
    assert repro(folder)
    expected = outputs(folder)
    for name in (*expected, ".dvc/cache", ".dvc/tmp"):
        subprocess.run(["rm", "-rf", str(folder / name)], check=True)
    wait = f"[open({str(tmp_path / 'begun')!r}, 'w'), __import__('time').sleep(600)]; "
    place = 'python -c "' if stage == "first" else "open('b.txt'"
    whole = (folder / "dvc.yaml").read_text()
    (folder / "dvc.yaml").write_text(
        whole.replace(place, f"{place}{wait}" if stage == "first" else f"{wait}{place}", 1)
    )
    with processes.started([sys.executable, "-m", "dvc", "repro"], folder, env=calls.environment(folder)):
        wait_for((tmp_path / "begun").exists)
    (folder / "dvc.yaml").write_text(whole)
    assert repro(folder) and outputs(folder) == expected


def wait_for(event) -> None:
    """Until something has happened; how long that takes decides nothing."""
    while not event():
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_dvc_and_all_that_it_has_started(folder, number):
    """To the command alone, as a scheduler sends it: no process is left, one line is said."""
    sleeping = "import os, time; open('pids', 'a').write(f'{os.getpid()} '); time.sleep(600)"
    stages = {name: {"cmd": f'python -c "{sleeping}"'} for name in ("one", "other")}
    (folder / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    code = (
        "import sys; from pathlib import Path; from saqlib.errors import told; from saqlib.pipeline import calls\n"
        "with told(stopped='It goes on.'):\n"
        f"    calls.side_by_side(Path({str(folder)!r}), ['repro', '-s', 'one'], ['repro', '-s', 'other'])"
    )
    pipes = {
        "stderr": subprocess.PIPE,
        "stdout": subprocess.DEVNULL,
        "env": os.environ | {"PYTHONPATH": str(paths.ROOT)},
    }
    with processes.started([sys.executable, "-c", code], folder, **pipes) as command:
        wait_for(lambda: (folder / "pids").exists() and len((folder / "pids").read_text().split()) == 2)
        command.send_signal(number)
        said = command.communicate()[1]
    assert command.returncode == 128 + number and said.splitlines()[-1] == "It goes on." and "Traceback" not in said
    assert not any(processes.runs(int(pid)) for pid in (folder / "pids").read_text().split())


def test_a_folder_that_may_not_be_written_is_one_line(folder, monkeypatch, capsys):
    """What the system refuses is told, with its file."""
    refuse = PermissionError(13, "Permission denied", str(folder / ".dvc" / "tmp"))
    monkeypatch.setattr(calls.Path, "mkdir", lambda *_, **__: (_ for _ in ()).throw(refuse))
    with pytest.raises(SystemExit) as stop, errors.told(calls.CallError), calls.alone(folder):
        pass
    assert stop.value.code == f"{folder / '.dvc' / 'tmp'}: Permission denied"
