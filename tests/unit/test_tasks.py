"""The lists of jobs: what they hold, what needs what, who takes which share, and what is said while they are done."""

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from saqlib.precision import Shape
from study import cells, settings, tasks
from study.settings import ParamsError
from study.tasks import Job


@pytest.fixture(scope="module")
def study() -> settings.Study:
    """The grid of the paper at scale smoke, with two of its ablations."""
    whole = settings.load(scale="smoke")
    return replace(whole, ablations={name: whole.ablations[name] for name in ("edges_same", "signed_ranking")})


@pytest.fixture(scope="module")
def lists(study) -> dict[str, list[Job]]:
    return dict(tasks.phases(study))


def made(folder: Path, number: int, needs: tuple[int, ...] = ()) -> Job:
    """A job of one number, which nobody does; needs: numbers of others."""
    files = tuple(folder / f"{each}.txt" for each in needs)
    return Job("nothing", (number,), f"job {number}", 1.0, (folder / f"{number}.txt",), files)


def finish(job: Job) -> None:
    for path in job.results:
        path.write_text("done")


# -------------------------------------------------------------------------------------------------------- the lists


def test_every_network_is_trained_and_scored_once(study, lists):
    """Of the main grid; of an ablation what it changes is trained, and all of it is scored in a summary."""
    seeds, count = study.size.seeds, len(study.grid.cells)
    ablated = {name: len(each.cells) * len(each.seeds_at(study.size)) for name, each in study.ablations.items()}
    by_function = Counter(job.function.__name__ for jobs in lists.values() for job in jobs)
    changed = 2 * 2 + 3 * 2  # of one seed and two datasets w4a4 and w2a2; guided of three precisions
    assert by_function["train_network"] == count * seeds + changed
    assert by_function["score_network"] == count * seeds
    assert by_function["curves_of"] == count
    assert by_function["fill_gains"] == len(study.grid.datasets) * study.size.exploring
    shared = 2  # summaries of fp32, standard, that neither ablation changes
    assert by_function["summary_scores"] == sum(ablated.values()) - shared
    results = [path for jobs in lists.values() for job in jobs for path in job.results]
    assert len(set(results)) == len(results)


def test_a_list_needs_what_the_lists_before_it_leave(lists):
    """In their order; within a list nothing needs anything. So no test image is scored before fills are decided."""
    assert list(lists) == ["warm-up", "train", "fills", "score"]
    there: set[Path] = set()
    for jobs in lists.values():
        for job in jobs:
            assert set(job.needs) <= there, job.label
        there |= {path for job in jobs for path in job.results}
    decided = {path for job in lists["fills"] for path in job.results}
    for job in lists["score"]:
        if job.function in (cells.score_network, cells.curves_of):
            dataset = job.arguments[0].recipe.dataset
            assert {path for path in decided if path in job.needs}, dataset


def test_the_longest_begins_first(lists):
    """Or one worker would end with it alone: guided and quantized networks before standard ones of full precision."""
    for jobs in lists.values():
        assert [job.seconds for job in jobs] == sorted((job.seconds for job in jobs), reverse=True)
    assert "guided" in lists["train"][0].label and "standard" in lists["train"][-1].label


def test_a_gpu_trains_all_seeds_of_a_cell_as_one(study, monkeypatch):
    """From the start, as one batched network, but for the second network; scores are computed on the processor."""
    monkeypatch.setattr(cells, "pick_device", lambda device: "cuda")
    second = study.recipe(study.grid.cells[0])
    second = replace(second, shape=Shape((2, 3, 4), ()))
    warm, train = tasks.trainings(cells.Trained(second, seed, "cuda") for seed in range(2))
    assert [job.function for job in (*warm, *train)] == 2 * [cells.warm_up_network] + 2 * [cells.train_network]
    lists = dict(tasks.phases(replace(study, ablations={})))
    assert lists["warm-up"] == [] and len(lists["train"]) == len(study.grid.cells)
    assert all(job.gpu and job.function == cells.train_together for job in lists["train"])
    assert all(len(job.results) == study.size.seeds for job in lists["train"])
    assert not any(job.gpu for job in lists["score"])


# ----------------------------------------------------------------------------------------------------- doing them


@pytest.fixture
def engine(monkeypatch):
    """Does a job by writing its files; those in `failing` end with an error. What was done, in turn."""
    done, failing = [], set()

    def do(jobs, progress):
        for job in jobs:
            done.append(job.label)
            if job.label in failing:
                yield job, ValueError("no such number")
            else:
                finish(job)
                yield job, None

    monkeypatch.setitem(tasks.ENGINES, "local", do)
    return done, failing


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch, engine, study, capsys):
    """Only what the store lacks, list by list; what computes is said once, if anything does."""
    first, second = [made(tmp_path, 1), made(tmp_path, 2)], [made(tmp_path, 3, needs=(1,))]
    monkeypatch.setattr(tasks, "phases", lambda _: [("first", first), ("second", second)])
    finish(first[1])
    for computed in (1, 0):
        assert tasks.fill(study) == (3, 3, 0) and engine[0] == ["job 1", "job 3"]
        assert capsys.readouterr().err.count("Computed by ") == computed


def test_a_failed_job_is_named_and_the_others_are_done(tmp_path, monkeypatch, engine, study):
    """What needs its result is counted, in a message of one line for each failure."""
    first = [made(tmp_path, 1), made(tmp_path, 2)]
    second = [made(tmp_path, 3, needs=(1,)), made(tmp_path, 4, needs=(2,))]
    monkeypatch.setattr(tasks, "phases", lambda _: [("first", first), ("second", second)])
    engine[1].add("job 1")
    with pytest.raises(tasks.TasksError) as error:
        tasks.fill(study)
    assert str(error.value).splitlines() == [
        "job 1: no such number", "1 more jobs wait for what these leave.", tasks.STOPPED
    ]  # fmt: skip
    assert engine[0] == ["job 1", "job 2", "job 4"]


def test_shares_are_the_whole_and_wait_for_one_another(tmp_path, monkeypatch, engine, study):
    """Each job is in one share; what needs another share's result waits, and a second call does it."""
    first, second = [made(tmp_path, i) for i in range(5)], [made(tmp_path, i, needs=(i - 5,)) for i in (6, 5, 8, 7, 9)]
    monkeypatch.setattr(tasks, "phases", lambda _: [("first", first), ("second", second)])
    assert tasks.fill(study, shard=(0, 2)) == (4, 6, 2)
    assert tasks.fill(study, shard=(1, 2)) == (4, 4, 0)
    assert tasks.fill(study, shard=(0, 2)) == (6, 6, 0)
    assert sorted(engine[0]) == sorted(job.label for job in [*first, *second])


@pytest.mark.parametrize("text", ["3", "3/", "/4", "4/4", "-1/4", "1/0", "a/b", "1/4/9", "1.5/4", ""])
def test_a_share_that_is_none_is_refused(text):
    """In one line, with what it should be."""
    with pytest.raises(ParamsError, match="--shard"):
        tasks.shard_of(text)


def test_progress_without_a_terminal_is_a_line_now_and_then(tmp_path, capsys, monkeypatch):
    """The first, one a minute, the last; and every trouble. The time left is that of the seconds that are left."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    jobs = [made(tmp_path, number) for number in range(9)]
    progress = tasks.Progress(jobs)
    for job in jobs:
        now[0] += 25
        progress(job, None)
    progress(jobs[0], ValueError("broken"))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "9 of 9 jobs to do" and lines[-1] == "[9/9] job 0 failed: broken"
    assert [line.split()[0] for line in lines[1:]] == ["[3/9]", "[6/9]", "[9/9]", "[9/9]"]
    assert lines[1] == "[3/9] job 2, about 2 min left"
