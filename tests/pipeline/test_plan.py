"""The plan: each task once, in order, when what it needs is there; whatever others leave in the store is taken up."""

from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest

from saqlib.pipeline import plan as plans
from saqlib.pipeline.plan import Plan
from tests.pipeline.made import made


def drained(plan: Plan, *, gpu: bool = False) -> list[int]:
    """The seeds of all tasks that can begin one after the other, each done before the next one."""
    order = []
    while found := plan.take(gpu=gpu):
        _, task = found
        task.do()
        plan.finish(task)
        order.append(task.seeds[0])
    return order


def test_tasks_begin_in_the_order_of_the_list(tmp_path):
    """The list says what had better begin first."""
    assert drained(Plan([made(tmp_path, number) for number in (3, 1, 2)])) == [3, 1, 2]


def test_what_needs_a_file_waits_for_it_and_then_comes_first(tmp_path):
    """The first of the list, as soon as what it needs is done."""
    plan = Plan([made(tmp_path, 1, needs=(2, 3)), made(tmp_path, 2), made(tmp_path, 3), made(tmp_path, 4)])
    assert drained(plan) == [2, 3, 1, 4] and not plan.left


def test_what_is_done_is_not_handed_out(tmp_path):
    """And counts as done."""
    tasks = [made(tmp_path, number) for number in range(3)]
    tasks[1].do()
    plan = Plan(tasks)
    assert (plan.done, plan.total) == (1, 3)
    assert drained(plan) == [0, 2] and plan.done == 3


def test_what_had_better_wait_does_not_wait_for_nobody(tmp_path):
    """A file that no task of this list will leave is not waited for: a warm-up that another share runs."""
    tasks = [made(tmp_path, 1, after=(2,)), made(tmp_path, 3, after=(9,)), made(tmp_path, 2)]
    assert drained(Plan(tasks)) == [3, 2, 1]


def test_a_file_that_somebody_else_leaves_is_seen(tmp_path, monkeypatch):
    """Another share's network; and it is looked for no more than now and then."""
    monkeypatch.setattr(plans, "LOOK_SECONDS", 0)
    plan = Plan([made(tmp_path, 1, needs=(7,))])
    assert plan.take() is None and len(plan.left) == 1
    made(tmp_path, 7).do()
    assert drained(plan) == [1]


def test_what_a_failed_task_would_have_left_is_waited_for(tmp_path):
    """It is told at the end, and everything else is done."""
    plan = Plan([made(tmp_path, 1), made(tmp_path, 2, needs=(1,)), made(tmp_path, 3, needs=(2,)), made(tmp_path, 4)])
    _, task = plan.take()
    plan.fail(task, ValueError("broken"))
    assert drained(plan) == [4]
    assert [task.seeds for task in plan.left] == [(2,), (3,)] and [str(error) for _, error in plan.failures] == [
        "broken"
    ]


def test_tasks_for_a_gpu_wait_for_one(tmp_path):
    """Who has one takes those first; who has none takes the others."""
    plan = Plan([made(tmp_path, 1), made(tmp_path, 2, gpu=True), made(tmp_path, 3), made(tmp_path, 4, gpu=True)])
    assert plan.take(gpu=True)[1].seeds == (2,)
    assert [plan.take()[1].seeds[0], plan.take()[1].seeds[0], plan.take()] == [1, 3, None]
    assert plan.take(gpu=True)[1].seeds == (4,)


def test_time_left_is_that_of_the_seconds_that_are_left(tmp_path, monkeypatch):
    """A quarter of the seconds took two minutes, so six are left; nothing is said before anything was finished."""
    now = [100.0]
    monkeypatch.setattr(plans.time, "monotonic", lambda: now[0])
    plan = Plan([made(tmp_path, 1, seconds=30), made(tmp_path, 2, seconds=90)])
    assert plan.minutes_left is None
    now[0] += 120
    plan.finish(plan.take()[1])
    assert plan.minutes_left == pytest.approx(6)


graphs = st.integers(1, 12).flatmap(
    lambda count: st.lists(st.lists(st.integers(0, 11), max_size=3), min_size=count, max_size=count)
)


@hypothesis.given(graphs, st.randoms(use_true_random=False), st.sets(st.integers(0, 11)))
def test_every_order_of_finishing_does_every_task_once(tmp_path_factory, graph, chance, there):
    """Tasks that need earlier ones, some done before, several at work at a time: each that was not done, once."""
    folder: Path = tmp_path_factory.mktemp("graph")
    tasks = [made(folder, i, needs=tuple({j for j in needs if j < i})) for i, needs in enumerate(graph)]
    chance.shuffle(tasks)
    for task in tasks:
        if task.seeds[0] in there:
            task.do()
    plan, busy, begun = Plan(tasks), [], []
    while True:
        while len(busy) < 3 and (found := plan.take()):
            assert all(file.exists() for file in found[1].needs)
            busy.append(found[1])
            begun.append(found[1].seeds[0])
        if not busy:
            break
        task = busy.pop(chance.randrange(len(busy)))
        task.do()
        plan.finish(task)
    assert sorted(begun) == [i for i in range(len(graph)) if i not in there]
    assert plan.done == plan.total == len(graph) and not plan.left
