"""The list done for real, on the sample: the same bytes whoever did what where, and nothing finished is done twice."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from saqlib.params import ParamsError
from saqlib.pipeline import calls, run, tasks
from saqlib.pipeline.plan import Plan
from tests.pipeline.made import made
from tests.workspaces import TINY, digests, kill

ABLATION = {
    "question": "What is hidden?", "patch": {"quantization.edges": "same"}, "datasets": ["mnist"],
    "precisions": ["fp32", "w2a2"], "trainings": ["standard"], "seeds": 2,
}  # fmt: skip
COUNT = 2 * 3 + 2 * 2 + 2 + 2 + 2 * 2  # trained, scored, fills, deployed, in brief
HOSTILE = {  # what surrounds a run and decides nothing
    "LOKY_MAX_CPU_COUNT": "4", "OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "2", "TZ": "Pacific/Kiritimati",
    "LC_ALL": "C", "PYTHONHASHSEED": "7", "HOME": "/nowhere", "USER": "somebody", "LOGNAME": "somebody",
}  # fmt: skip


def workspace(folder: Path) -> Path:
    """A copy of the study with two cells and one ablation."""
    run.workspace(folder, "smoke", **TINY)
    settings = yaml.safe_load((folder / "params.yaml").read_text())
    settings["ablations"] = {"edges_same": ABLATION}
    settings["scales"]["smoke"]["seeds_ablated"] = 2
    (folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    return folder


SOMEBODY = ["unshare", "--user", "--map-user=1234", "--map-group=1234"]  # another user, with the same rights


def start(folder: Path, *arguments: str, umask: int = -1, by: Sequence[str] = (), **variables: str) -> subprocess.Popen:
    """The command in a workspace, on the saqlib of that workspace; what it says is kept in a file."""
    command = [*by, sys.executable, "-m", "saqlib.pipeline.tasks", *arguments]
    with (folder / "log").open("w") as log:
        environment = calls.environment(folder) | variables
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, umask=umask)


def finish(folder: Path, process: subprocess.Popen) -> str:
    """What the command said; it has to succeed."""
    status = process.wait()
    assert status == 0, (folder / "log").read_text()
    return (folder / "log").read_text()


def store(folder: Path) -> dict[str, str]:
    """A hash of every file of the store, but for what a task that still runs has left."""
    found = digests(folder / "build" / "store")
    return {name: digest for name, digest in found.items() if name.endswith((".pt", ".nc", ".json", ".txt"))}


def stamps(folder: Path) -> dict[Path, int]:
    """When each file of the store was written."""
    return {
        path: path.stat().st_mtime_ns for path in (folder / "build" / "store").rglob("*.*") if path.name in store_names
    }


store_names = {"0.pt", "1.pt", "0.nc", "1.nc", "0.json", "1.json", "gains.json", "0.txt", "1.txt"}


def wait_for(folder: Path, process: subprocess.Popen, count: int) -> dict[Path, int]:
    """Until so many networks are trained; what is in the store by then."""
    while len(list((folder / "build" / "store").glob("trained/*/*.pt"))) < count:
        assert process.poll() is None, (folder / "log").read_text()
        time.sleep(0.05)
    return stamps(folder)


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    """A workspace whose store one process has filled."""
    folder = workspace(tmp_path_factory.mktemp("one") / "process")
    said = finish(folder, start(folder, LOKY_MAX_CPU_COUNT="1"))
    assert f"{COUNT} of {COUNT} tasks are done." in said
    return folder


# ------------------------------------------------------------------------------------------------- on one machine


def test_the_store_is_full_then(reference):
    """Each kind of result, for each network; nothing is left of what ran."""
    kinds = {kind: 0 for kind in ("trained", "scored", "brief", "fills", "deployed", "named")}
    for name in store(reference):
        kinds[name.split("/")[0]] = kinds.get(name.split("/")[0], 0) + 1
    assert kinds.pop("warmed") >= 2
    assert kinds == {"trained": 6, "scored": 4, "brief": 4, "fills": 2, "deployed": 2, "named": 8}
    assert len(store(reference)) == len(digests(reference / "build" / "store")), "no half file, no progress"


def test_what_surrounds_a_run_decides_nothing(reference, tmp_path):
    """More workers than cores, threads, time zone, language, hash seed, umask, home, a folder with a space."""
    folder = workspace(tmp_path / "another clone")
    finish(folder, start(folder, umask=0o077, **HOSTILE))
    assert store(folder) == store(reference)


def test_whoever_runs_it_gets_the_same(reference, tmp_path):
    """A user with a number that no list knows, so without a name or a home."""
    if not shutil.which("unshare") or subprocess.run([*SOMEBODY, "true"], capture_output=True).returncode:
        pytest.skip("this system gives nobody another number")
    folder = workspace(tmp_path / "clone")
    finish(folder, start(folder, by=SOMEBODY, HOME="/nowhere"))
    assert store(folder) == store(reference)


def test_a_second_call_does_nothing(reference):
    """And says so."""
    before = stamps(reference)
    assert finish(reference, start(reference)).splitlines()[-1] == f"{COUNT} of {COUNT} tasks are done."
    assert stamps(reference) == before


def test_a_task_that_another_machine_has_done_meanwhile_computes_nothing(reference):
    """Without the word that it is done, it is looked at again; the result that is there stays."""
    before = {path: stamp for path, stamp in stamps(reference).items() if path.suffix != ".txt"}
    for path in (reference / "build" / "store").glob("named/*/*.txt"):
        path.unlink()
    assert f"8 of {COUNT} tasks to do" in finish(reference, start(reference))
    assert before.items() <= stamps(reference).items() and len(stamps(reference)) == len(before) + 8


def test_the_stages_find_the_work_done(reference, monkeypatch):
    """What `dvc repro` would train, score and deploy is in the store under the names by which it looks for it."""
    script = (
        "from saqlib import paths, workers; from saqlib.deployment.cell import report_cell\n"
        "from saqlib.pipeline import ablate, by_hand, instructions, study; instructions.pin()\n"
        "settings = study.load(); real = workers.Engine.map\n"
        "def few(self, task, jobs, n_jobs=None):\n"
        "    assert not jobs or task.__module__ == 'saqlib.clarity.during', (task, jobs)\n"  # seconds a cell, no task
        "    return real(self, task, jobs, n_jobs)\n"
        "workers.Engine.map = few\n"
        "by_hand.train(settings.grid.cells, settings, paths.ROOT)\n"
        "by_hand.score(settings.grid.cells, settings, paths.ROOT)\n"
        "ablate.ablate('edges_same', None, paths.ROOT)\n"
        "from saqlib.deployment import cell; cell.keep_deployed = None\n"
        "for each in settings.grid.cells: report_cell(each, True, settings.size.images_deployed, paths.ROOT)\n"
    )
    before = stamps(reference)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=reference, env=calls.environment(reference), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert {path: stamp for path, stamp in stamps(reference).items() if path in before} == before


def test_shares_fill_one_store(reference, tmp_path):
    """Two members of an array, one after the other; the first is told to come again for what needed the second."""
    folder = workspace(tmp_path / "shares")
    first = finish(folder, start(folder, "--shard", "0/2"))
    assert "wait for networks of other shares: run this one again" in first
    finish(folder, start(folder, "--shard", "1/2"))
    before = stamps(folder)
    again = finish(folder, start(folder, "--shard", "0/2"))
    assert "wait for" not in again and store(folder) == store(reference)
    assert before.items() <= stamps(folder).items(), "nothing is done twice"


def test_a_killed_driver_loses_nothing_that_was_done(reference, tmp_path):
    """Killed with all its workers, as by a power failure; the same command does what is missing."""
    folder = workspace(tmp_path / "killed")
    process = start(folder)
    before = wait_for(folder, process, 2)
    kill(process)
    finish(folder, start(folder))
    assert store(folder) == store(reference)
    trained = {path: stamp for path, stamp in before.items() if path.parent.parent.name == "trained"}
    assert trained and trained.items() <= stamps(folder).items(), "nothing is done twice"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_one_line(number, tmp_path):
    """And leaves no worker and no half file behind."""
    folder = workspace(tmp_path / "stopped")
    process = start(folder)
    wait_for(folder, process, 1)
    process.send_signal(number)
    assert process.wait() == 128 + number
    assert (folder / "log").read_text().splitlines()[1:] == ["Stopped. The same command goes on from there."]
    assert not list((folder / "build" / "store").rglob(".*.partial"))


def test_a_diverging_network_is_named_and_the_others_are_done(tmp_path):
    """Cell and seed, in one line each; what needs them is counted."""
    folder = workspace(tmp_path / "diverging")
    limits = folder / "saqlib" / "pipeline" / "limits.py"  # which refuse such a rate before anything runs
    limits.write_text(limits.read_text().replace("value, 1.0,", "value, 1e9,"))
    settings = yaml.safe_load((folder / "params.yaml").read_text())
    settings["ablations"]["edges_same"]["patch"] = {"optimizer.learning_rate": 1e9}
    settings["ablations"]["edges_same"]["precisions"] = ["fp32"]
    (folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    process = start(folder)
    assert process.wait() == 1
    said = (folder / "log").read_text()
    for seed in (0, 1):
        assert f"train mnist-fp32-standard seed {seed} edges_same: mnist-fp32-standard, seed {seed}: " in said
    assert "2 more tasks wait for what these leave." in said and "Traceback" not in said
    assert len(list((folder / "build" / "store").glob("scored/*/*.nc"))) == 4


# ---------------------------------------------------------------------------------------------------- on a cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator:
    """A head that works not, with two nodes of one core."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        from ray.cluster_utils import Cluster

        found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        nodes = [found.add_node(num_cpus=1) for _ in range(2)]
        yield found, nodes
        found.shutdown()


def test_a_killed_driver_and_a_killed_node_lose_nothing(reference, cluster, tmp_path):
    """First the one in the middle of its work, then the other: complete, byte for byte, nothing done twice."""
    found, nodes = cluster
    folder = workspace(tmp_path / "cluster")
    variables = {"RAY_ADDRESS": found.address, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    process = start(folder, "--engine", "ray", **variables)
    before = wait_for(folder, process, 1)
    process.kill()
    process.wait()
    process = start(folder, "--engine", "ray", **variables)
    before |= wait_for(folder, process, 3)
    found.remove_node(nodes[0], allow_graceful=False)
    finish(folder, process)
    assert store(folder) == store(reference)
    trained = {path: stamp for path, stamp in before.items() if path.parent.parent.name == "trained"}
    assert len(trained) >= 3 and trained.items() <= stamps(folder).items(), "nothing is done twice"


# ---------------------------------------------------------------------------------------------- what is asked, told


@pytest.mark.parametrize("text", ["3", "3/", "/4", "4/4", "-1/4", "1/0", "a/b", "1/4/9", "1.5/4", ""])
def test_a_share_that_is_none_is_refused(text):
    """In one line, with what it should be."""
    with pytest.raises(ParamsError, match="--shard"):
        tasks._part(text)


def test_progress_without_a_terminal_is_a_line_now_and_then(tmp_path, capsys, monkeypatch):
    """The first, one a minute, the last; and every trouble."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    plan = Plan([made(tmp_path, number) for number in range(9)])
    say = tasks.Progress(plan)
    for _ in range(9):
        _, task = plan.take()
        now[0] += 25
        plan.finish(task)
        say(plan, str(task))
    say(plan, f"{task}: its worker process was killed; it begins again")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "9 of 9 tasks to do" and lines[-1].endswith("begins again")
    assert [line.split()[0] for line in lines[1:]] == ["[3/9]", "[6/9]", "[9/9]", "[9/9]"]
    assert lines[1] == "[3/9] made mnist-w2a2-guided seed 2, about 2 min left"
