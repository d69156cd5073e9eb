"""Claims and tables can be computed again from the committed CSVs by code of its own; the grid in test_grid.py."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from saqlib.findings import COLUMNS, VERDICTS, readings
from saqlib.grid import grid
from study import files, paths, settings
from tests.helpers import made_evidence, twin_claims, twin_grid, twin_origins, twin_tables
from tests.helpers.frames import DATASETS
from tests.helpers.parameters import RAW
from tests.helpers.written import write_fills

STUDY = settings.load()
FILLS = {"mnist": ("mean", "noise"), "fashion_mnist": made_evidence.FILLS}
STEPS = {"fp32": 0, "w4a4": 3, "mixed": 5, "w2a2": 10}


def planted(training, precision, name, column):
    """Gini falls with the bits, Moran's I rises, gains fall but for one fill; guidance helps, more so at few bits."""
    fall = STEPS[precision] / 100
    if column == "morans_i":
        return 2 * fall
    if column == "gini":
        return -2 * fall * (0.5 if training == "guided" else 1)
    return 0 if column == "relevance_gain_blur" else (0.06 + fall) * (training == "guided") - 2 * fall


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What claims rest on, of made-up networks of ten seeds; 4 bits cost no accuracy."""
    root, claims = tmp_path_factory.mktemp("made"), STUDY.claims
    maps = made_evidence.maps(planted, datasets=DATASETS)
    runs = made_evidence.runs(maps, lambda training, precision: -0.3 * STEPS[precision] * (precision != "w4a4"))
    verdicts, _ = grid(runs, maps, FILLS, claims)
    found = readings(verdicts, runs, maps, FILLS, claims)
    numbers = {"tables/grid": verdicts, "tables/claims": found, "runs": runs, "evidence/maps": maps}
    for name, frame in numbers.items():
        files.write(root / "results" / f"{name}.csv", files.csv(frame))
    for name, fills in FILLS.items():
        write_fills(root, name, fills)
    return root / "results"


def written(results, name):
    """A table of results/tables; the first runs' files call one score by another name."""
    return pd.read_csv(results / "tables" / f"{name}.csv").replace("symmetric_relevance_gain", "relevance_gain_zero")


def check_claims(results):
    """claims.csv, but for registered claims, is what the twin reads from the grid; the words and readings it finds."""
    keys, numbers = ["claim", *twin_claims.KEYS], twin_claims.NUMBERS
    expected = twin_claims.recomputed(results, RAW["claims"]).sort_values(keys, ignore_index=True)
    claims = written(results, "claims")
    assert list(claims) == COLUMNS
    claims = claims[claims.claim.isin(expected.claim)].sort_values(keys, ignore_index=True)
    words = [*keys, "verdict", "reading"]
    pd.testing.assert_frame_equal(claims[words], expected[words])
    np.testing.assert_allclose(claims[numbers], expected[numbers], rtol=1e-5, atol=2e-6)
    return set(claims.verdict), set(claims.reading)


def check_origins(results):
    """randomization.csv."""
    cascade = pd.read_csv(results / "evidence" / "cascade.csv")
    twin_origins.check(written(results, "randomization"), cascade, STUDY.claims)


def check_tables(results):
    """Every mean, interval and share in the tables, from the numbers of every seed."""
    for name, expected in twin_tables.tables(results, "fp32", STUDY.size.exploring).items():
        found = written(results, name)
        found = found.assign(metric="test_accuracy") if "metric" in set(expected) - set(found) else found
        found = found[found["map"] != "untrained"] if name == "maps" else found  # those are other rows' floors
        keys = [column for column in expected if column not in ("mean", "low", "high")]
        found, expected = (frame.set_index(keys).sort_index() for frame in (found, expected))
        there = found[found["mean"].notna()]
        assert there.index.equals(expected[expected["mean"].notna()].index), name
        columns = ["mean", "low", "high"]
        np.testing.assert_allclose(there[columns], expected.loc[there.index, columns], rtol=1e-4, atol=1e-6)


def test_claims_are_read_again(made):
    """Every verdict is among them, and readings of every kind."""
    verdicts, found = check_claims(made)
    assert verdicts == set(VERDICTS)
    assert {"both lost", "map lost, accuracy kept", "map kept, accuracy lost", "loses less", "no loss",
            "lower, beyond the margin", "higher, beyond the margin", "equivalent", "undecided"} <= found  # fmt: skip


@pytest.mark.parametrize("check", [check_claims, check_origins, check_tables])
def test_the_committed_results_are_computed_again(check):
    """Those of the paper."""
    check(paths.RESULTS)


def test_the_twin_s_own_test_is_the_one_of_scipy():
    """The share of flips, by scipy's permutation test."""
    values = np.random.default_rng(0).normal(0.4, 1, (8, 5))
    found = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="greater", axis=0
    )
    np.testing.assert_allclose([twin_grid.share_above(column) for column in values.T], found.pvalue)
