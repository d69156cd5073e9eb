"""The real work killed, and done elsewhere: the same bytes whoever did what, and nothing finished is done twice."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from study import files, paths, processes, run
from study.tasks import run_elsewhere
from tests.helpers.jobs import job
from tests.helpers.workspaces import TINY, digests, edit_params, finish, start

HOSTILE = {  # what surrounds a run and decides nothing
    "LOKY_MAX_CPU_COUNT": "4", "OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "2", "TZ": "Pacific/Kiritimati",
    "LC_ALL": "C", "PYTHONHASHSEED": "7", "HOME": "/nowhere", "USER": "somebody", "LOGNAME": "somebody",
}  # fmt: skip
RAY = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


def workspace(folder: Path) -> Path:
    """A workspace with two cells and one ablation."""
    edits = {
        "scales": {"smoke": TINY["scales"]["smoke"] | {"seeds_ablated": 2}},
        "ablations": TINY["ablations"] | {
            "edges_same": {"datasets": ["mnist"], "precisions": ["fp32", "w2a2"], "trainings": ["standard"]},
        },
    }  # fmt: skip
    return run.workspace(folder, "smoke", **TINY | edits)


def tasks(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen:
    return start(folder, "study.run", "tasks", *arguments, **variables)


def store(folder: Path) -> dict[str, str]:
    """A hash of every file of the store, but for what shows a training that still runs."""
    found = digests(folder / "build" / "store")
    return {name: digest for name, digest in found.items() if not name.endswith((".progress", ".partial"))}


def stamps(folder: Path) -> dict[Path, int]:
    """When each file of the store was written."""
    places = [folder / "build" / "store" / name for name in store(folder)]
    return {place: place.stat().st_mtime_ns for place in places}


def wait_for(folder: Path, process: subprocess.Popen, count: int) -> dict[Path, int]:
    """Until so many networks are trained; what is in the store by then."""
    while len(list((folder / "build" / "store").glob("trained/*/[0-9]"))) < count:
        assert process.poll() is None, (folder / "log").read_text()
        time.sleep(0.05)
    return stamps(folder)


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    """A workspace whose store one process has filled."""
    folder = workspace(tmp_path_factory.mktemp("one") / "process")
    finish(folder, tasks(folder, LOKY_MAX_CPU_COUNT="1"))
    return folder


def test_what_surrounds_a_run_decides_nothing(reference, tmp_path):
    """More workers than cores, threads, time zone, language, hash seed, home, a folder with a space."""
    folder = workspace(tmp_path / "another clone")
    finish(folder, tasks(folder, **HOSTILE))
    assert store(folder) == store(reference)


def test_shares_fill_one_store(reference, tmp_path):
    """Two members of an array, one after the other; each is told to come again for what needed the other's."""
    folder = workspace(tmp_path / "shares")
    first = finish(folder, tasks(folder, "--shard", "0/2"))
    assert "wait for networks of other shares: run this one again" in first
    for _ in range(3):
        texts = [finish(folder, tasks(folder, "--shard", shard)) for shard in ("1/2", "0/2")]
    assert not any("wait for" in text for text in texts) and store(folder) == store(reference)


def test_a_killed_driver_loses_nothing_that_was_done(reference, tmp_path):
    """It alone, so that its workers have to notice; the same command does what is missing."""
    folder = workspace(tmp_path / "killed")
    process = tasks(folder)
    before = wait_for(folder, process, 2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finish(folder, tasks(folder))
    assert store(folder) == store(reference)
    assert before.items() <= stamps(folder).items(), "nothing is done twice"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_one_line(number, tmp_path):
    """And leaves no worker behind; what one was writing keeps a name that nothing reads, until the next start."""
    folder = workspace(tmp_path / "stopped")
    process = tasks(folder)
    wait_for(folder, process, 1)
    process.send_signal(number)
    assert process.wait() == 128 + number
    assert (folder / "log").read_text().splitlines()[-1] == run.STOPPED
    assert "Traceback" not in (folder / "log").read_text()
    assert not processes.left_over(folder)
    files.sweep(folder / "build" / "store")
    assert not list((folder / "build" / "store").rglob(".*.partial"))


def test_a_diverging_network_is_named_and_the_others_are_done(tmp_path):
    """Cell and seed, in one line; what needs it is counted."""
    folder = workspace(tmp_path / "diverging")
    settings = folder / "study" / "params.py"  # which refuses such a rate before anything runs
    bound = "learning_rate: float = Field("
    settings.write_text(settings.read_text().replace(f"{bound}ge=0, le=1,", bound))
    fast = {"ablations__edges_same__patch": {"optimizer.learning_rate": 1e9}}
    edit_params(folder, ablations__edges_same__precisions=["fp32"], **fast)
    process = tasks(folder)
    assert process.wait() == 1
    words = (folder / "log").read_text()
    assert "seed 1 edges_same: seed 1: the loss is not finite" in words  # ablations begin at the first confirming seed
    assert "more jobs wait for what these leave." in words and "Traceback" not in words
    assert len(list((folder / "build" / "store").glob("scored/*/[0-9]"))) == 4


# ---------------------------------------------------------------------------------------------------- the pipeline


def test_killed_again_and_again_the_same_command_ends_the_same(tmp_path):
    """SIGKILL to the driver alone, while networks train and while notebooks run; beside it `dvc repro` undisturbed.

    Everything under results/ and the paper are the same in two folders, executed notebooks included.
    """
    calm, killed = (run.workspace(tmp_path / name, "smoke", **TINY) for name in ("a folder", "killed"))
    undisturbed = start(calm, "dvc", "repro")
    try:
        for waits in ("build/store/trained/*/1", "models/*.pt", "results/fills/mnist.csv", "results/runs.csv"):
            process = start(killed, "study.run", "reproduce")
            while not list(killed.glob(waits)):
                assert process.poll() is None, (killed / "log").read_text()
                time.sleep(0.05)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        log = finish(killed, start(killed, "study.run", "reproduce"))
        finish(calm, undisturbed)
    finally:
        if undisturbed.poll() is None:
            processes.kill_tree(undisturbed.pid)
            undisturbed.wait()
    for stage in ("data", "train@mnist", "fills@mnist"):
        assert f"Stage '{stage}' didn't change, skipping" in log
    assert digests(calm / "results") == digests(killed / "results")
    assert (calm / "paper" / "paper.pdf").read_bytes() == (killed / "paper" / "paper.pdf").read_bytes()
    assert not list((killed / "build" / "store").rglob("*.partial"))


# ---------------------------------------------------------------------------------------------------- on a cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator:
    """A head that does not work, with two nodes of one core."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in RAY.items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        nodes = [found.add_node(num_cpus=1) for _ in range(2)]
        yield found, nodes
        found.shutdown()


def test_a_killed_driver_and_a_killed_node_lose_nothing(reference, cluster, tmp_path):
    """First the one in the middle of its work, then the other: complete, byte for byte, nothing done twice."""
    found, nodes = cluster
    folder = workspace(tmp_path / "cluster")
    variables = {"RAY_ADDRESS": found.address} | RAY
    process = tasks(folder, "--engine", "ray", **variables)
    before = wait_for(folder, process, 1)
    process.kill()
    process.wait()
    process = tasks(folder, "--engine", "ray", **variables)
    before |= wait_for(folder, process, 3)
    found.remove_node(nodes[0], allow_graceful=False)
    finish(folder, process)
    assert store(folder) == store(reference)
    trained = {path: stamp for path, stamp in before.items() if path.parent.parent.name == "trained"}
    assert len(trained) >= 3 and trained.items() <= stamps(folder).items(), "nothing is done twice"


def test_a_node_that_gives_other_bytes_is_left_out(reference, tmp_path):
    """One without the kernels, say: what it was given goes to the others; where none is left, that is said."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        found.add_node(num_cpus=1, env_vars={"CC": "no-compiler"})
        folder = workspace(tmp_path / "cluster")
        process = tasks(folder, "--engine", "ray", RAY_ADDRESS=found.address, **RAY)
        assert process.wait() == 1
        assert (
            "another processor: what it computes has other bytes; no other node is left" in (folder / "log").read_text()
        )
        found.add_node(num_cpus=1)
        finish(folder, tasks(folder, "--engine", "ray", RAY_ADDRESS=found.address, **RAY))
        assert "other bytes; it is left out" in (folder / "log").read_text()
        assert store(reference).items() <= store(folder).items()
    finally:
        found.shutdown()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "http://127.0.0.1", "nowhere", "ray://[::1]:1"])
def test_where_no_cluster_is_there_is_one_line(address, tmp_path):
    """At once, and not two minutes of silence."""
    folder = run.workspace(tmp_path / "w", "smoke", **TINY)
    process = tasks(folder, "--engine", "ray", RAY_ADDRESS=address)
    assert process.wait() == 1
    line = (folder / "log").read_text().splitlines()[-1]
    assert line.startswith(f"no Ray cluster answers at RAY_ADDRESS, {address!r} (HOST:PORT): ")


def test_another_machine_says_why_it_is_one(tmp_path):
    """Another folder's code, or packages whose results have other names: nothing of it is taken for done."""
    elsewhere = job(tmp_path, 1, "elsewhere")
    assert run_elsewhere("/elsewhere", elsewhere).endswith("not the code of /elsewhere")
    assert run_elsewhere(str(paths.ROOT), elsewhere).endswith("what it computes has other bytes")


def test_without_ray_the_command_that_installs_it_is_named(tmp_path):
    """In one line."""
    folder = run.workspace(tmp_path / "w", "smoke", **TINY)
    (folder / "ray.py").write_text("raise ImportError\n")
    assert tasks(folder, "--engine", "ray").wait() == 1
    assert (folder / "log").read_text().splitlines()[-1] == "Ray is not installed: pip install 'saqlib[ray]'"
