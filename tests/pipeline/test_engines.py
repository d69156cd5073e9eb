"""Engines: every task done, by as many processes as there are; one that is killed or fails takes no other with it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from joblib.externals.loky import get_reusable_executor

from saqlib import paths
from saqlib.params import ParamsError
from saqlib.pipeline import engines, study, worker
from saqlib.pipeline.plan import Plan
from tests.pipeline.made import made

SHAPE = study.load(scale="smoke").shape


@pytest.fixture(scope="module", autouse=True)
def asking():
    """The driver is a process whose instructions were pinned before PyTorch came, as those of its workers are."""
    script = (
        "import json; from saqlib.pipeline import instructions, study, worker; instructions.pin();"
        "print(json.dumps(worker.machine(study.load(scale='smoke').shape)))"
    )
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    get_reusable_executor().shutdown(wait=True)  # joblib's idle workers, which other files' tests leave for minutes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "machine", lambda shape: json.loads(done.stdout))
        yield


def done_by(folder: Path) -> dict[int, list[str]]:
    """The processes that began each task, in turn."""
    return {int(path.stem): path.read_text().split() for path in folder.glob("*.attempts")}


def run(tasks: list, workers: int = 2, gpus: int = 0) -> tuple[Plan, list[str]]:
    """Do tasks on this machine; the plan, and what was told."""
    plan, told = Plan(tasks), []
    engines.local(plan, workers, gpus, SHAPE, lambda plan, what: told.append(f"{plan.done} {what}"))
    assert not at_work()
    return plan, told


def at_work() -> list[int]:
    """The workers that this process has started and that still run."""
    return [each.pid for each in psutil.Process().children() if "popen_loky_posix" in " ".join(each.cmdline())]


def test_workers_do_every_task_once(tmp_path):
    """Several processes, none of them this one, each with several tasks; what needs another one comes after it."""
    tasks = [made(tmp_path, number, needs=(number - 4,) if number >= 4 else ()) for number in range(12)]
    plan, told = run(tasks)
    assert plan.done == plan.total == 12 and not plan.failures and not plan.left
    pids = [pid for each in done_by(tmp_path).values() for pid in each]
    assert len(pids) == 12 and len(set(pids)) == 2 and str(os.getpid()) not in pids
    assert [line.split()[0] for line in told] == [str(number) for number in range(1, 13)]


def test_nothing_to_do_starts_nobody(tmp_path):
    """Also where all that is left waits for others."""
    task = made(tmp_path, 1)
    task.do()
    assert run([task, made(tmp_path, 2, needs=(9,))])[0].done == 1
    assert set(done_by(tmp_path)) == {1}


def test_a_failed_task_is_named_and_the_others_are_done(tmp_path):
    """All but what needs it."""
    plan, told = run([made(tmp_path, 1, how="fail"), made(tmp_path, 2, needs=(1,)), made(tmp_path, 3)])
    ((task, error),) = plan.failures
    assert str(task) == "made mnist-w2a2-guided seed 1" and str(error) == "no such number"
    assert any(line.endswith("made mnist-w2a2-guided seed 1 failed: no such number") for line in told)
    assert plan.done == 1 and len(plan.left) == 1


def test_a_killed_worker_is_named_and_its_task_begins_again(tmp_path):
    """By another process; the task beside it goes on."""
    plan, told = run([made(tmp_path, 1, how="killed once"), *(made(tmp_path, number) for number in (2, 3))])
    assert plan.done == 3 and not plan.failures
    assert len(done_by(tmp_path)[1]) == 2 and len(set(done_by(tmp_path)[1])) == 2
    assert [len(done_by(tmp_path)[number]) for number in (2, 3)] == [1, 1]
    assert any("seed 1: its worker process was killed; it begins again" in line for line in told)


def test_a_task_that_always_kills_its_worker_is_given_up(tmp_path):
    """After three times; everything else is done."""
    plan, _ = run([made(tmp_path, 1, how="killed"), made(tmp_path, 2)], workers=1)
    ((task, error),) = plan.failures
    assert task.seeds == (1,) and isinstance(error, engines.KilledError) and "enough memory" in str(error)
    assert len(done_by(tmp_path)[1]) == 3 and plan.done == 1


def test_an_interruption_leaves_no_worker(tmp_path):
    """Whatever they do."""

    def stop(plan, what):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engines.local(Plan([made(tmp_path, 1, how="endless"), made(tmp_path, 2)]), 2, 0, SHAPE, stop)
    assert not at_work()


def test_only_workers_with_a_gpu_take_tasks_for_one(tmp_path):
    """One process of two, though the other has nothing to do."""
    plan, _ = run([made(tmp_path, number, gpu=True) for number in range(3)], gpus=1)
    assert plan.done == 3 and len({pid for pids in done_by(tmp_path).values() for pid in pids}) == 1


def test_another_kind_of_machine_is_refused(tmp_path, monkeypatch):
    """No file of other bytes comes into the store."""
    monkeypatch.setattr(worker, "machine", lambda shape: {"torch": "1.0"})
    with pytest.raises(worker.OtherMachineError, match=r"has torch .*, not 1\.0"):
        run([made(tmp_path, 1)])
    assert not done_by(tmp_path)


def test_ray_that_is_not_installed_is_one_sentence(tmp_path, monkeypatch):
    """With the command that installs it."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ParamsError, match="Ray is not installed: pip install"):
        engines.cluster(Plan([made(tmp_path, 1)]), SHAPE, print)


# ------------------------------------------------------------------------------------------------------ a cluster


@pytest.fixture(scope="module")
def ray():
    """Ray on this machine alone, ended afterwards."""
    found = pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(paths.ROOT))  # where the tests' own tasks are
        patch.delenv("RAY_ADDRESS", raising=False)
        found.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield found
        found.shutdown()


def test_a_cluster_does_every_task_once(tmp_path, ray):
    """A failed one is named, what needs another one comes after it; one that kills its worker once is done."""
    tasks = [made(tmp_path, number, needs=(number - 4,) if number >= 4 else ()) for number in range(8)]
    tasks += [made(tmp_path, 8, how="fail"), made(tmp_path, 9, needs=(8,)), made(tmp_path, 10, how="killed once")]
    plan, told = Plan(tasks), []
    engines.cluster(plan, SHAPE, lambda plan, what: told.append(what))
    assert plan.done == 9 and len(plan.left) == 1
    ((task, error),) = plan.failures
    assert task.seeds == (8,) and type(error) is ValueError and str(error) == "no such number"
    begun = done_by(tmp_path)
    assert {number for number, pids in begun.items() if len(pids) != 1} == {10} and len(begun[10]) == 2
    assert str(os.getpid()) not in {pid for pids in begun.values() for pid in pids}


def test_a_node_of_another_kind_is_refused(tmp_path, ray, monkeypatch):
    """The run ends with the node's name, and nothing of it is kept."""
    monkeypatch.setattr(worker, "machine", lambda shape: {"torch": "1.0"})
    with pytest.raises(worker.OtherMachineError, match=r"has torch .*, not 1\.0"):
        engines.cluster(Plan([made(tmp_path, 1)]), SHAPE, print)
    assert not done_by(tmp_path)
