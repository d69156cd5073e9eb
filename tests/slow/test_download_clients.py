"""study.download: package clients in processes of their own. No test downloads: sources are stand-ins."""

import sys
from pathlib import Path

import pytest

from saqlib.errors import last_line
from study import download, processes

# What stands in for torchvision in the process that downloads.
TORCHVISION = """
import os, socket, sys
from types import SimpleNamespace
class Kind:
    def __init__(self, root, download):
        print("a progress bar", file=sys.stderr)
        assert download and socket.getdefaulttimeout() == 10
        os.makedirs(os.path.join(root, type(self).__name__, "raw"))
        if os.path.exists("fail"):
            raise RuntimeError("no mirror answers")
datasets = SimpleNamespace(**{name: type(name, (Kind,), {}) for name in ("MNIST", "FashionMNIST")})
"""


@pytest.fixture
def no_torchvision(tmp_path, monkeypatch) -> Path:
    """A folder to download to, where a stand-in comes before torchvision."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "torchvision.py").write_text(TORCHVISION)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    (tmp_path / "downloads").mkdir()
    return tmp_path / "downloads"


@pytest.mark.parametrize(("dataset", "kind"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_torchvision_says_where_its_files_lie(no_torchvision, capfd, dataset, kind):
    """Each dataset is torchvision's own of that name; no bar where nobody looks; what goes wrong is its last line."""
    assert download.from_torchvision(dataset, no_torchvision) == no_torchvision / kind / "raw"
    assert (no_torchvision / kind / "raw").is_dir() and capfd.readouterr() == ("", "")
    (no_torchvision / "fail").touch()
    (no_torchvision / kind / "raw").rmdir()
    (no_torchvision / kind).rmdir()
    with pytest.raises(RuntimeError) as error:
        download.from_torchvision(dataset, no_torchvision)
    assert last_line(error.value) == "RuntimeError: no mirror answers"


def test_client_errors_are_reported_in_its_words(tmp_path):
    """A client that is not installed is named; one that fails is a RuntimeError with its own words."""
    with pytest.raises(FileNotFoundError, match="no-such-client"):
        download._run(["no-such-client"], tmp_path)
    for command, words in (
        ([sys.executable, "-c", "raise SystemExit('no index')"], "no index"),
        ([sys.executable, "-c", "raise SystemExit(3)"], "exit code 3"),
    ):
        with pytest.raises(RuntimeError, match=words):
            download._run(command, tmp_path)


@pytest.mark.parametrize("trap", [[], ["import signal", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"]])
def test_a_client_that_never_ends_is_ended(tmp_path, monkeypatch, trap):
    """A server that sends a byte now and then: the client is killed with what it has started, whatever it ignores."""
    monkeypatch.setattr(download, "CLIENT_TIMEOUT", 2)
    program = ["import os, subprocess, sys, time", *trap, "child = subprocess.Popen(['sleep', '1000'])",
               "open('pids', 'w').write(f'{os.getpid()} {child.pid}')", "time.sleep(1000)"]  # fmt: skip
    with pytest.raises(RuntimeError, match="did not end within 2 seconds"):
        download._run([sys.executable, "-c", "\n".join(program)], tmp_path)
    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) == 2 and not any(processes.runs(int(pid)) for pid in pids)
