"""Every table of the study, of made-up networks."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from saqlib.findings import readings, registered_rows, retained
from saqlib.firmness import alternatives
from saqlib.grid import grid
from saqlib.registered import Frames, Registered, evaluate, power
from saqlib.scores import CANDIDATE_FILLS
from study import settings
from study.report import tables
from tests.helpers import made

CLAIMS = settings.load().claims
FILLS = dict.fromkeys(made.DATASETS, CANDIDATE_FILLS)
EXPLORING = 4
DEVICE = ("flash_bytes", "ram_bytes", "stack_bytes", "class_instructions", "straight_through_instructions",
          "pass_through_instructions")  # fmt: skip


def runs(precisions: Sequence[str] = made.PRECISIONS) -> pd.DataFrame:
    """Of ten seeds. With fewer bits accuracy falls and focus rises, so that every verdict is said of something."""
    steps = {"test_accuracy": -20, "gini": 10, "amplitude": -20}
    found = made.runs(precisions, 10, effect=lambda p, _, metric: steps.get(metric, 0) * precisions.index(p))
    return found.assign(sensitivity_max=0.5, entropy=0.5, auroc=0.7, gini_near=0.6, positive_biases=found.seed % 2)


def every_table(precisions: Sequence[str] = made.PRECISIONS) -> dict[str, tables.Table]:
    """By name; costs are 10,000 of everything."""
    networks, maps = runs(precisions), made.scored_maps(precisions, 10)
    controls, reference = made.controls(precisions), made.of_the_reference(networks)
    left = retained(networks, reference.assign(**{score: reference[score] - 1 for score in made.SCORES}), "fp32")
    costs = made.grid(precisions, 1).drop(columns="seed").assign(**{key: 1e4 for key, *_ in tables.COSTS.values()})
    boards = pd.DataFrame(dict.fromkeys(DEVICE, 1e4), index=[0, 1]).assign(core=["Cortex-M0", "Cortex-M4"])
    on_boards = costs[tables.CELL].merge(boards, how="cross")
    around = made.during(precisions).query("step in (30, 100)")
    verdicts, tests = grid(networks, maps, FILLS, CLAIMS)
    frames = Frames(maps, pd.DataFrame(), networks, {}, FILLS)
    asked = {"precisions": tuple(precisions[1:]), "text": "", "versus": "pass_through"}
    ours = [  # one that is as expected, one that is not, and one that is described on one dataset
        Registered(id="C1", test="lower", expected={"default": "supported"}, **asked),
        Registered(id="C1", test="higher", expected={"default": "supported"}, **asked),
        Registered(id="C5", test="lower", expected={"default": "supported"}, datasets=("mnist",), **asked),
    ]
    found = evaluate(ours, frames, CLAIMS, EXPLORING)
    chances = power(ours, frames, CLAIMS, range(EXPLORING), repeats=2)
    edges = alternatives(networks, maps, FILLS, CLAIMS, resamples=2)
    read = readings(verdicts, networks, maps, FILLS, CLAIMS)
    read = pd.concat([read, registered_rows(found)], ignore_index=True)
    every = [
        tables.accuracy(networks), tables.clarity(networks, controls), tables.relevance_gain(maps, controls),
        tables.secondary(networks), tables.focus(networks), tables.preservation(networks, reference, "fp32"),
        tables.retained(left), tables.deployment(costs, networks, left), tables.device(on_boards, networks, maps),
        tables.during(around.assign(when=np.where(around.step == 30, "before", "end"))),
        tables.grid(verdicts), tables.grid(verdicts, "grid_confirming"), tables.listed("grid_tests", tests),
        tables.listed("grid_confirming_tests", tests), tables.maps(made.map_means(precisions)),
        tables.listed("randomization", made.randomized(precisions)), tables.alternatives(edges),
        tables.listed("claims", read, CLAIMS.questions), tables.registered(found, CLAIMS.questions),
        tables.listed("power", chances),
        tables.ablations(made.ablated(), CLAIMS.questions),
    ]  # fmt: skip
    return {table.name: table for table in every}
