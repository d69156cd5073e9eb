"""DVC, notebooks and workers under faults: killed, twice at once, under a person's settings, ended by a signal.

The pipeline here is a toy of two stages, so that each fault costs a second; test_killed.py has the real one.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest

from study import dvc, notebooks, paths, processes, tasks
from tests.helpers.jobs import job

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
OURS = os.environ | {"PYTHONPATH": str(paths.ROOT)}
SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])


@pytest.fixture
def folder(tmp_path):
    """A folder with a pipeline of two stages, without git."""
    folder = tmp_path / "a 'b' %s é"
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc" / "config").write_text((paths.ROOT / ".dvc" / "config").read_text(encoding="utf-8"))
    (folder / "dvc.yaml").write_text(PIPELINE)
    return folder


def repro(folder) -> bool:
    with dvc.run_lock(folder):
        return dvc.repro(folder)


def outputs(folder) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("a.txt", "b.txt", "dvc.lock")}


def wait_for(event) -> None:
    """Until something has happened; how long that takes decides nothing."""
    while not event():
        time.sleep(0.02)


def pids(path) -> list[int]:
    return [int(each) for each in path.read_text().split()] if path.exists() else []


# -------------------------------------------------------------------------------------------------------------- DVC


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"schema: 'x\nstages"])
def test_after_half_written_files_everything_comes_back_as_it_was(folder, content, capfd):
    """What DVC left when it was killed is put aside, which is said; then it writes the same."""
    assert repro(folder)
    before = outputs(folder)
    for name in ("dvc.lock", ".dvc/tmp/rwlock"):
        (folder / name).write_bytes(content)
    assert repro(folder) and outputs(folder) == before
    assert "is put aside" in capfd.readouterr().out and (folder / "dvc.lock.damaged").read_bytes() == content


def test_what_is_whole_stays(folder):
    """Also the lock of a run that has ended, whatever it lists."""
    assert repro(folder)
    dead = {"read": {}, "write": {"a.txt": {"pid": 2**22 + 1, "cmd": "dvc repro"}}}
    (folder / ".dvc" / "tmp" / "rwlock").write_text(json.dumps(dead))
    dvc.mend(folder)
    assert not list(folder.rglob("*.damaged"))


def test_a_folder_at_which_dvc_stops_is_refused_in_one_line(tmp_path):
    """Braces are places of values to a bar of DVC's; the run does not begin."""
    with pytest.raises(dvc.DvcError, match="brace in the name of a folder"), dvc.run_lock(tmp_path / "a{b}c"):
        pass
    assert not (tmp_path / "a{b}c").exists()


def test_two_runs_at_once_are_one_run_and_one_line(folder):
    """The second stops at once and names the folder; one that was killed locks nobody out."""
    code = f"from study.dvc import run_lock; from pathlib import Path\nwith run_lock(Path({str(folder)!r})):"
    holding = f"{code}\n    print('mine', flush=True)\n    input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": OURS}
    with processes.started([sys.executable, "-c", holding], paths.ROOT, **pipes) as first:
        assert first.stdout.readline() == "mine\n"
        with pytest.raises(dvc.DvcError) as error, dvc.run_lock(folder):
            pass
        assert str(error.value) == f"another run works in {folder}; wait for its end, or stop it"
        first.kill()
        first.wait()
    assert repro(folder)


def test_a_persons_configuration_and_shell_decide_nothing(folder, tmp_path, monkeypatch):
    """Outputs are files and no links, whatever DVC, the shell and git are told elsewhere."""
    mine = tmp_path / "mine"
    (mine / "dvc").mkdir(parents=True)
    (mine / "dvc" / "config").write_text(f"[cache]\n    type = symlink\n    dir = {tmp_path / 'shared'}\n")
    for name in ("XDG_CONFIG_HOME", "XDG_CONFIG_DIRS", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR"):
        monkeypatch.setenv(name, str(mine / "dvc" if name.startswith("DVC") else mine))
    others = {"SHELL": "/usr/sbin/nologin", "GIT_DIR": "/nowhere", "BASH_ENV": "/nowhere", "LC_ALL": "tr_TR.ISO-8859-9"}
    for name, value in others.items():
        monkeypatch.setenv(name, value)
    assert repro(folder)
    assert not any((folder / name).is_symlink() for name in outputs(folder)) and not (tmp_path / "shared").exists()


def sleeping(folder) -> None:
    """Let a stage of the toy never end; its process is named in `pids`."""
    code = "import os, time; open('pids', 'a').write(f'{os.getpid()} '); time.sleep(600)"
    (folder / "dvc.yaml").write_text(json.dumps({"stages": {"one": {"cmd": f'python -c "{code}"'}}}))


@SIGNALS
def test_a_signal_ends_dvc_and_all_that_it_has_started(folder, number):
    """To the command alone, as a scheduler sends it: no process is left, one line is said."""
    sleeping(folder)
    code = (
        "from pathlib import Path; from saqlib.errors import exit_with_message; from study import dvc\n"
        f"with exit_with_message(stopped='It goes on.'): dvc.repro(Path({str(folder)!r}))"
    )
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "env": OURS}
    with processes.started([sys.executable, "-c", code], folder, **pipes) as command:
        wait_for(lambda: pids(folder / "pids"))
        command.send_signal(number)
        errors = command.communicate()[1]
    assert command.returncode == 128 + number and errors.splitlines()[-1] == "It goes on."
    assert "Traceback" not in errors and not any(map(processes.runs, pids(folder / "pids")))


def test_children_end_with_a_driver_that_is_killed(folder):
    """SIGKILL to it alone, which can end nobody: DVC ends, and the same command goes on at once."""
    sleeping(folder)
    code = f"from pathlib import Path; from study import dvc\ndvc.repro(Path({str(folder)!r}))"
    with processes.started([sys.executable, "-c", code], folder, env=OURS, stdout=subprocess.DEVNULL) as driver:
        wait_for(lambda: pids(folder / "pids"))
        (child,) = psutil.Process(driver.pid).children()
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        wait_for(lambda: not processes.runs(child.pid))
    wait_for(lambda: not any(map(processes.runs, pids(folder / "pids"))))
    (folder / "dvc.yaml").write_text(PIPELINE)
    assert repro(folder)


def test_a_stage_that_fails_is_one_sentence(folder):
    """DVC has said which, and the command knows it."""
    (folder / "dvc.yaml").write_text(json.dumps({"stages": {"one": {"cmd": "python -c 'raise SystemExit(3)'"}}}))
    assert not repro(folder)


# ------------------------------------------------------------------------------------------------------- processes

FAMILY = """
import os, pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
if len(sys.argv) > 1:
    more = sys.argv[1:]
    subprocess.Popen([sys.executable, __file__, *more[1:]], start_new_session=more[0] == "session")
with open("pids", "a") as file:
    file.write(f"{os.getpid()} ")
time.sleep(1000)
"""


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_a_whole_tree_ends_with_its_block(tmp_path, error):
    """Children of children, in sessions of their own and deaf to signals; the error of the block comes through."""
    (tmp_path / "family.py").write_text(FAMILY)
    command = [sys.executable, str(tmp_path / "family.py"), "session", "same", "session"]
    try:
        with processes.started(command, tmp_path) as process:
            wait_for(lambda: len(pids(tmp_path / "pids")) == 4)
            if error:
                raise error
    except (ValueError, KeyboardInterrupt) as caught:
        assert type(caught) is error
    assert not any(map(processes.runs, pids(tmp_path / "pids"))) and process.returncode == -9


WORKING = """
import os, sys, time
sys.path[:0] = [{folder!r}]
from study import processes
from task import work
processes.run_all(work, [(i,) for i in range(2)], n_jobs=2)
"""
TASK = """
import os, pathlib, time
def work(i):
    pathlib.Path(__file__).with_name(f"{os.getpid()}.pid").touch()
    time.sleep(1000)
"""


def test_workers_end_with_the_process_that_waits_for_them(tmp_path):
    """A kernel that is killed, or that runs out of memory, leaves nobody at work."""
    (tmp_path / "task.py").write_text(TASK)
    program = [sys.executable, "-c", WORKING.format(folder=str(tmp_path))]
    with processes.started(program, tmp_path, env=OURS) as process:
        wait_for(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        wait_for(lambda: not any(processes.runs(int(path.stem)) for path in tmp_path.glob("*.pid")))


def test_a_killed_worker_takes_nothing_with_it(tmp_path, capsys):
    """What it had not finished begins again in a new pool; one that is killed each time ends the list, not the rest."""
    jobs = [job(tmp_path, number, "killed once" if number == 2 else "") for number in range(5)]
    ended = dict(tasks.ENGINES["local"](jobs, tasks.Progress(jobs)))
    assert set(ended.values()) <= {None} and all(each.done for each in jobs)
    assert "a worker process was killed; what it did begins again" in capsys.readouterr().err
    jobs = [job(tmp_path, 10, "killed"), job(tmp_path, 11, "fail")]
    errors = {each.label: str(error) for each, error in tasks.ENGINES["local"](jobs, tasks.Progress(jobs))}
    assert "killed 3 times; is there enough memory?" in errors["job 10"]


# -------------------------------------------------------------------------------------------------------- notebooks

PARAMETERS = 'dataset = "mnist"\noutput = "."'


def put(root, *sources) -> None:
    """A notebook by the contract in a checkout of its own."""
    cell = nbformat.v4.new_code_cell
    cells = [nbformat.v4.new_markdown_cell("# Toy"), cell(PARAMETERS, metadata={"tags": ["parameters"]})]
    book = nbformat.v4.new_notebook(cells=[*cells, *map(cell, sources)], metadata=notebooks.METADATA)
    (root / "notebooks").mkdir(parents=True, exist_ok=True)
    nbformat.write(book, root / "notebooks" / "toy.ipynb")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with braces, a space and more in its name that holds the code, taken for the checkout."""
    root = tmp_path / "a{b}c {0} é%s"
    for name in ("saqlib", "study"):
        shutil.copytree(paths.ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("notebooks", "build", "results"):
        monkeypatch.setattr(paths, name.upper(), root / name)
    return root


def stage(root, *arguments: str, **variables: str) -> tuple[list[str], dict[str, str]]:
    """The command of a stage in that checkout, and a person's variables."""
    own = {"PATH": os.environ["PATH"], "PYTHONPATH": str(root), "HOME": str(root)}
    return [sys.executable, "-m", "study.run", "notebook", "toy", *arguments], own | variables


def printed(path) -> list[str]:
    cells = json.loads(path.read_text())["cells"]
    outputs = [cell["outputs"] for cell in cells if cell["cell_type"] == "code"]
    return ["".join("".join(output.get("text", "")) for output in some) for some in outputs]


CELLS = (
    "import pandas as pd\npd.DataFrame({f'column {i}': range(3) for i in range(12)})",
    "1 + 1\n2 + 2",
    "from matplotlib import pyplot\npyplot.plot([1, 3, 2])\npyplot.title('Größe ± σ')\npyplot.show()",
    "import time, locale, sys\nprint(time.tzname, locale.getpreferredencoding(), sys.flags.utf8_mode)",
    "print(time.time(), file=sys.stderr)\nfor i in range(3):\n    print(i, flush=True)\n    time.sleep(0.05)",
    "from ipywidgets import IntProgress\nIntProgress()",
    "assert not hasattr(__builtins__, 'STARTED')\nimport study, os\nprint(dataset, sys.prefix, os.getcwd()[-9:])",
)


def test_a_stage_under_every_setting_at_once_gives_the_same_bytes(checkout, tmp_path):
    """Kernel, IPython, Jupyter, matplotlib, locale, zone, terminal, shell: all of them set against us."""
    put(checkout, *CELLS)
    home = tmp_path / "home"
    startup, kernels = home / "ipython" / "profile_default" / "startup", home / "kernels" / "kernels" / "python3"
    for place in (startup, kernels, home / "mpl"):
        place.mkdir(parents=True)
    spec = {"argv": ["/bin/false"], "display_name": "Python 3", "language": "python"}
    (kernels / "kernel.json").write_text(json.dumps(spec))
    (startup / "00-mine.py").write_text("import builtins\nbuiltins.STARTED = True\n")
    (startup.parent / "ipython_config.py").write_text("c.InlineBackend.figure_formats = {'svg'}\n")
    (home / "mpl" / "matplotlibrc").write_text("figure.figsize: 2, 2\nfont.size: 30\n")
    hostile = {
        "HOME": str(home), "MPLBACKEND": "Agg", "MPLCONFIGDIR": str(home / "mpl"), "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_PATH": str(home / "kernels"), "JUPYTER_DATA_DIR": str(home / "kernels"), "PYTHONHASHSEED": "3",
        "PYTHONWARNINGS": "ignore", "PYTHONUTF8": "0", "LC_ALL": "en_US.ISO-8859-1", "TZ": "Asia/Kathmandu",
        "COLUMNS": "20", "FORCE_COLOR": "1", "SHELL": "/usr/sbin/nologin", "GIT_DIR": "/nowhere", "PAPERMILL_X": "1",
    }  # fmt: skip
    found = []
    for variables in ({}, hostile):
        command, environment = stage(checkout, str(checkout / "out.ipynb"), "-p", "dataset", "2e4", **variables)
        subprocess.run(command, cwd=checkout, env=environment, check=True, timeout=300)
        found.append((checkout / "out.ipynb").read_bytes())
    assert found[0] == found[1] and b"svg" not in found[0]
    assert printed(checkout / "out.ipynb")[-1].strip() == f"2e4 {sys.prefix} notebooks"
    assert "'UTC'" in printed(checkout / "out.ipynb")[-4]


def test_a_failed_cell_or_a_killed_kernel_leaves_the_last_good_output(checkout):
    """One line that names the cell; the notebook up to there lies in build/failed/, and nothing runs any more."""
    output = checkout / "out.ipynb"
    put(checkout, "import os\nprint(os.getpid())")
    notebooks.run("toy", output, {})
    assert not processes.runs(int(printed(output)[-1]))
    good = output.read_bytes()
    put(checkout, "assert dataset == 'mnist', f'no {dataset} here'")
    with pytest.raises(notebooks.NotebookError, match=r"^out stopped in cell \[\d\] with AssertionError: no letters"):
        notebooks.run("toy", output, {"dataset": "letters"})
    failed = nbformat.read(checkout / "build" / "failed" / "out.ipynb", as_version=4)
    assert failed.cells[-1].outputs[0].ename == "AssertionError"
    put(checkout, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(notebooks.NotebookError, match="^out stopped: its kernel was killed; is there enough memory"):
        notebooks.run("toy", output, {})
    assert output.read_bytes() == good


@SIGNALS
def test_a_signal_ends_a_stage_with_its_kernel_and_all_that_this_has_started(checkout, number):
    """One line, the exit code of a signal, no process left, no output."""
    source = "import os, subprocess, time\nchild = subprocess.Popen(['sleep', '600'], start_new_session=True)"
    place = str(checkout / "pids")
    put(checkout, source, f"open({place!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\ntime.sleep(600)")
    command, environment = stage(checkout, str(checkout / "out.ipynb"))
    with processes.started(command, checkout, env=environment, stderr=subprocess.PIPE) as running:
        wait_for(lambda: len(pids(checkout / "pids")) == 2 or running.poll() is not None)
        running.send_signal(number)
        errors = running.communicate()[1]
    assert running.returncode == 128 + number and errors == "Stopped.\n"
    assert not any(map(processes.runs, pids(checkout / "pids"))) and not (checkout / "out.ipynb").exists()
