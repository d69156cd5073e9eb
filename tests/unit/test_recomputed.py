"""Verdicts, what they depend on, and tables can be computed again from the committed CSVs by code of its own."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from saqlib.dependence import about, other_methods, robustness, standing
from saqlib.findings import randomized, recovered, retained, surrogate
from saqlib.verdicts import VERDICTS, evaluate
from study import files, paths, settings
from study.frames import collect
from study.report import tables
from tests.helpers import twin, twin_origins, twin_robustness, twin_tables
from tests.helpers.parameters import RAW
from tests.helpers.twin import LABELS
from tests.helpers.written import write_cell, write_fills

STUDY = settings.load()
STEPS = {"fp32": 0.0, "w4a4": 0.06, "mixed": 0.25, "w2a2": 0.5}
RESAMPLES = 5


def planted(cell, score, method):
    """Gini falls with the bits, Moran's I rises; gains fall under most fills; guidance helps, more so at few bits.

    On FashionMNIST two other methods say the contrary of Gini, on MNIST one does.
    """
    fall, guided = STEPS[cell.precision], cell.training == "guided"
    if score == "gini" and method in ("occlusion", *["smoothgrad"] * (cell.dataset == "fashion_mnist")):
        return 1.0 + fall
    if score == "morans_i":
        return 0.6 * fall + 1.0
    if score == "blur" and cell.dataset == "mnist":
        return 1.0
    return 1.0 - fall + guided * (0.3 + 0.5 * fall)


def accurate(cell):
    """Four bits cost next to nothing, two bits three points."""
    return 95 - {"fp32": 0, "w4a4": 0.02, "mixed": 1.5, "w2a2": 3}[cell.precision]


def write_results(root, seeds):
    """results/ below `root`, as the notebook writes it, of made-up networks with those effects."""
    rng = np.random.default_rng(11)
    for cell in STUDY.grid.cells:
        write_cell(root, cell, rng, seeds=seeds, effect=planted, accuracy=accurate, errors=0.02)
    write_fills(root, "mnist", ["mean", "noise"])
    found, claims = collect(STUDY.grid, "fp32", root), STUDY.claims
    runs = found.runs["primary"]
    answers = evaluate(found.evidence, claims)
    methods = other_methods(found.evidence, claims, answers, found.methods)
    alternatives = robustness(found.evidence, claims, resamples=RESAMPLES)
    shown = (
        tables.accuracy(runs),
        tables.clarity(runs, found.controls),
        tables.relevance_gain(runs, found.controls),
        tables.secondary(found.secondary),
        tables.preservation(runs, found.seed_to_seed, "fp32"),
        tables.convergence(found.methods, "fp32"),
        tables.retained(retained(runs, found.untrained["primary"], "fp32")),
    )
    numbers = {table.name: table.numbers for table in shown} | {
        "claims": answers.tests(),
        "equivalence": answers.equivalence(),
        "verdicts": answers.verdicts()
        .join(standing(alternatives, answers))
        .assign(about=about(claims, methods, answers)),
        "robustness": alternatives,
        "other_methods": methods,
        "switched": recovered(found.switched, found.methods, found.fills, claims),
        "surrogate": surrogate(found.differences, found.fills, claims),
        "randomization": randomized(found.cascade, claims),
    }
    for folder, frames in (("evidence", found.per_seed()), ("tables", numbers)):
        for name, frame in frames.items():
            files.write(root / "results" / folder / f"{name}.csv", files.csv(frame))


@pytest.fixture(scope="module", params=[10, 2], ids="{} seeds".format)
def made(request, tmp_path_factory):
    """results/ of ten seeds, and of two, as at smoke and quick; the number of seeds."""
    root = tmp_path_factory.mktemp("made")
    write_results(root, request.param)
    return root / "results", request.param


def written(results, name):
    """A table of results/tables; the first runs' files call one score by another name."""
    return pd.read_csv(results / "tables" / f"{name}.csv").replace("symmetric_relevance_gain", "relevance_gain_zero")


def check_verdicts(results):
    """claims.csv, equivalence.csv and verdicts.csv are what the twin finds; the words that it finds."""
    tests, answers = twin.recomputed(results, RAW["claims"])
    claims, equivalence = written(results, "claims"), written(results, "equivalence")
    keys = [*LABELS, "comparison"]
    pd.testing.assert_frame_equal(claims[keys], tests[keys])
    columns = ["p", "p_holm", "estimate", "low", "high"]
    np.testing.assert_allclose(claims[columns], tests[columns], rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(equivalence[["p", "p_holm"]], tests[["same", "same_holm"]], rtol=1e-6)
    pd.testing.assert_series_equal(claims.verdict, tests.verdict)
    pd.testing.assert_frame_equal(written(results, "verdicts")[[*LABELS, "verdict"]], answers)
    return set(tests.verdict) | set(answers.verdict)


def check_robustness(results, resamples):
    """robustness.csv, case by case, and what verdicts.csv says of it."""
    keys = [*LABELS, "alternative"]
    expected = twin_robustness.robustness(results, RAW["claims"], resamples).set_index(keys).sort_index()
    found = written(results, "robustness").set_index(keys).sort_index()
    pd.testing.assert_frame_equal(found[list(expected.columns)], expected, check_dtype=False)
    whole = written(results, "verdicts").set_index(LABELS)
    for key, group in expected.groupby(LABELS, sort=False):
        own = whole.loc[key]
        assert (own.stays, own.alternatives) == (group.stays.sum(), len(group)), key
        assert own.firm == (group.stays.all() and own.verdict != "undecided"), key
    return whole.firm


def check_methods(results):
    """other_methods.csv: how many of four methods bear each comparison out, and what verdicts.csv makes of it."""
    keys = [*LABELS, "comparison"]
    expected = twin_robustness.methods(results, RAW["claims"]).set_index(keys)
    found = written(results, "other_methods").set_index(keys)
    pd.testing.assert_frame_equal(found[["verdict", "agree"]], expected, check_dtype=False)
    groups = dict(iter(expected.groupby(LABELS)))
    for row in written(results, "verdicts").itertuples():
        own = groups.get(tuple(getattr(row, label) for label in LABELS), expected[:0])
        agree = own[(own.verdict == row.verdict) & own.agree.notna()].agree.to_numpy()
        enough = np.any if row.claim == "A4" else np.all
        assert row.about == ("maps" if enough(agree >= 3) else "gradients") if len(agree) else row.about != row.about
    return set(written(results, "verdicts").about.dropna())


def check_origins(results):
    """switched.csv, surrogate.csv and randomization.csv."""
    found = {name: written(results, name) for name in ("switched", "surrogate", "randomization")}
    names = ("switched", "methods", "differences", "cascade")
    frames = {name: pd.read_csv(results / "evidence" / f"{name}.csv") for name in names}
    decided = {name: pd.read_csv(results / "fills" / f"{name}.csv") for name in STUDY.grid.datasets}
    fills = {name: table.fill[table.qualifies].tolist() for name, table in decided.items()}
    twin_origins.check(found, frames, fills, STUDY.claims)


def check_tables(results):
    """Every mean, interval and share in the tables, from the numbers of every seed."""
    for name, expected in twin_tables.tables(results, "fp32").items():
        found = written(results, name)
        found = found if "metric" in found else found.assign(metric="test_accuracy")
        keys = [column for column in expected if column not in ("mean", "low", "high")]
        found, expected = (frame.set_index(keys).sort_index() for frame in (found, expected))
        there = found[found["mean"].notna()]
        assert there.index.equals(expected[expected["mean"].notna()].index), name
        columns = ["mean", "low", "high"]
        np.testing.assert_allclose(there[columns], expected.loc[there.index, columns], rtol=1e-4, atol=1e-6)


def test_everything_is_computed_again(made):
    """Of ten seeds every word is among the verdicts, some firm, some about maps and some about gradients."""
    results, seeds = made
    assert check_verdicts(results) == (set(VERDICTS) if seeds == 10 else {"undecided"})
    assert set(check_robustness(results, RESAMPLES)) == ({True, False} if seeds == 10 else {False})
    assert check_methods(results) == ({"maps", "gradients"} if seeds == 10 else set())
    check_origins(results)
    check_tables(results)


@pytest.mark.parametrize("check", [check_verdicts, check_methods, check_origins, check_tables])
def test_the_committed_results_are_computed_again(check):
    """Those of the paper; all resamples of the seeds in tests/slow."""
    check(paths.RESULTS)


def test_the_twin_s_own_test_is_the_one_of_scipy():
    """The share of flips, by scipy's permutation test."""
    values = np.random.default_rng(0).normal(0.4, 1, (8, 5))
    found = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="greater", axis=0
    )
    np.testing.assert_allclose(twin.flips(values), found.pvalue)
