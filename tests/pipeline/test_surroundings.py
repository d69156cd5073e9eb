"""A stage under everything that a person's machine may have set, at once: the same bytes."""

import json
import os
import shutil
import stat
import subprocess
import sys

import nbformat
import pytest

from saqlib import paths
from saqlib.pipeline import forms, surroundings

# What a stage prints, draws and writes: tables and their width, two expressions in a cell, a figure, text that is not
# ASCII, warnings, the zone and the encoding.
CELLS = (
    "import warnings\nimport pandas as pd\npd.DataFrame({f'column {i}': range(3) for i in range(12)})",
    "1 + 1\n2 + 2",
    "import matplotlib\nfrom matplotlib import pyplot\nmatplotlib.get_backend()",
    "pyplot.plot([1, 3, 2])\npyplot.title('Größe ± σ')\npyplot.show()",
    "from pathlib import Path\nplace = Path(output, 'text.txt')\nplace.write_text('99.18 ± 0.04 →\\n')",
    "print(place.read_text())",
    "import time, locale, sys\nprint(time.tzname, locale.getpreferredencoding(), sys.flags.utf8_mode)",
    "warnings.simplefilter('default')\nassert not hasattr(__builtins__, 'STARTED')\nprint(sys.prefix)",
)
PARAMETERS = 'output = "."'


@pytest.fixture
def checkout(tmp_path):
    """A folder with braces, a space and more in its name that holds the library, and a notebook; as a checkout."""
    root = tmp_path / "a{b}c {0} é%s"
    (root / "notebooks").mkdir(parents=True)
    shutil.copytree(paths.ROOT / "saqlib", root / "saqlib", ignore=shutil.ignore_patterns("__pycache__"))
    cells = [nbformat.v4.new_markdown_cell("# Toy"), code(PARAMETERS, "parameters"), *map(code, CELLS)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=forms.METADATA), root / "notebooks" / "toy.ipynb")
    return root


def code(source, *tags):
    return nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)} if tags else {})


@pytest.fixture
def hostile(tmp_path):
    """A person's variables and settings, each of which has changed a figure, a text, or what is run."""
    home = tmp_path / "home"
    kernels = home / "kernels" / "kernels" / "python3"
    startup = home / "ipython" / "profile_default" / "startup"
    for folder in (kernels, startup, home / "mpl", home / "jupyter", home / "modules"):
        folder.mkdir(parents=True)
    argv = [sys.executable, "-c", f"open({str(home / 'foreign')!r}, 'w')"]
    (kernels / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))
    (startup / "00-mine.py").write_text("import builtins\nbuiltins.STARTED = True\n")
    (startup.parent / "ipython_config.py").write_text(
        "c.InteractiveShell.ast_node_interactivity = 'all'\nc.InlineBackend.figure_formats = {'svg'}\n"
    )
    (home / "mpl" / "matplotlibrc").write_text("figure.figsize: 2, 2\nfont.size: 30\n")
    (home / "jupyter" / "jupyter_config.py").write_text("raise SystemExit('read')\n")
    (home / "startup.py").write_text("import builtins\nbuiltins.STARTED = True\n")
    (home / "modules" / "matplotlib.py").write_text("raise ImportError('another matplotlib')\n")
    return {
        "HOME": str(home), "MPLBACKEND": "Agg", "MPLCONFIGDIR": str(home / "mpl"),
        "MATPLOTLIBRC": str(home / "mpl" / "matplotlibrc"), "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_PATH": str(home / "kernels"), "JUPYTER_DATA_DIR": str(home / "kernels"),
        "JUPYTER_CONFIG_DIR": str(home / "jupyter"), "JUPYTER_PLATFORM_DIRS": "0",
        "PYTHONSTARTUP": str(home / "startup.py"), "PYTHONWARNINGS": "ignore",
        "PYTHONOPTIMIZE": "", "PYTHONHASHSEED": "3", "PYTHONUTF8": "0",
        "PYTHONIOENCODING": "latin-1", "LC_ALL": "en_US.ISO-8859-1", "LANG": "de_DE.ISO-8859-1", "LANGUAGE": "de",
        "TZ": "Asia/Kathmandu", "COLUMNS": "20", "LINES": "5", "FORCE_COLOR": "1", "SOURCE_DATE_EPOCH": "1",
        "SHELL": "/usr/sbin/nologin", "GIT_DIR": "/nowhere", "DVC_GLOBAL_CONFIG_DIR": str(home), "PAPERMILL_X": "1",
    }  # fmt: skip


def run_stage(root, variables, output) -> subprocess.CompletedProcess:
    """The command of a stage in that checkout."""
    command = [sys.executable, "-m", "saqlib.pipeline.notebooks", "run", "toy", output, "-p", "output", str(root)]
    own = {"PATH": os.environ["PATH"], "PYTHONPATH": str(root)}
    return subprocess.run(command, cwd=root, env=own | variables, capture_output=True, timeout=300)


def test_a_stage_under_every_variable_at_once_gives_the_same_bytes(checkout, hostile, tmp_path):
    """Kernel, IPython, Jupyter, matplotlib, locale, zone, terminal, shell: all of them set against us."""
    plain = {"HOME": str(tmp_path)}
    found = []
    for variables in (plain, hostile):
        output = checkout / "out.ipynb"
        done = run_stage(checkout, variables, str(output))
        assert done.returncode == 0, done.stderr.decode()
        found.append((output.read_bytes(), (checkout / "text.txt").read_bytes()))
        output.unlink()
    assert found[0] == found[1]
    assert not (tmp_path / "home" / "foreign").exists()
    assert found[0][1] == "99.18 ± 0.04 →\n".encode()
    outputs = found[0][0].decode()
    assert sys.prefix in outputs and "image/png" in outputs and "svg" not in outputs and "'UTC'" in outputs


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_rights_are_those_that_the_umask_leaves(checkout, umask, tmp_path):
    """Nobody's files are opened to others, and none is closed."""
    before = os.umask(umask)
    try:
        assert run_stage(checkout, {"HOME": str(tmp_path)}, str(checkout / "out.ipynb")).returncode == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE((checkout / "out.ipynb").stat().st_mode) == 0o666 & ~umask


def test_what_is_settled_and_what_is_kept(tmp_path):
    """A person's settings go; where things are, proxies, threads and cards stay."""
    kept = {
        "HTTPS_PROXY": "p",
        "OMP_NUM_THREADS": "3",
        "CUDA_VISIBLE_DEVICES": "1",
        "HOME": "/h",
        "LOKY_MAX_CPU_COUNT": "2",
    }
    lost = {"PYTHONPATH": "/x", "MPLBACKEND": "Agg", "DVC_ROOT": "/y", "LC_CTYPE": "C"}
    given = {"PATH": "/bin"} | kept | lost
    found = surroundings.environment(tmp_path / "root", tmp_path / "scratch", given)
    assert {name: found[name] for name in kept} == kept
    assert found["PYTHONPATH"] == str(tmp_path / "root") and found["SHELL"] == "/bin/sh"
    assert found["PATH"].split(os.pathsep) == [os.path.dirname(sys.executable), "/bin"]
    assert "DVC_ROOT" not in found and "LC_CTYPE" not in found
    for name in surroundings.EMPTY:
        assert os.listdir(found[name]) == []


def test_settled_variables_end_with_the_block(monkeypatch):
    """Inside they are those of this process; afterwards what was there is there again, and no folder is left."""
    monkeypatch.setenv("MPLBACKEND", "Agg")
    before = dict(os.environ)
    with pytest.raises(ZeroDivisionError), surroundings.settled() as found:
        assert dict(os.environ) == found and os.environ["MPLBACKEND"] != "Agg"
        raise ZeroDivisionError
    assert dict(os.environ) == before and not os.path.exists(found["IPYTHONDIR"])
