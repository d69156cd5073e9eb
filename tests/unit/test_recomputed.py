"""Claims and tables can be computed again from the committed CSVs by code of its own; the grid in test_grid.py."""

import numpy as np
import pandas as pd
import pytest

from saqlib.findings import COLUMNS, VERDICTS, readings
from saqlib.grid import grid
from study import files, paths, settings
from tests.helpers import made_evidence, twin_claims, twin_origins, twin_tables
from tests.helpers.made import DATASETS
from tests.helpers.parameters import RAW
from tests.helpers.written import write_fills

STUDY = settings.load()
FILLS = {"mnist": ("mean", "noise"), "fashion_mnist": made_evidence.FILLS}
# Of several made-up grids: the spread of what precisions and guidance change, the noise, and what training gives.
MADE_UP = [(0.2, 0.1, 0.01, 0.4), (0.2, 0.0, 0.01, 0.4), (0.05, 0.03, 0.04, 0.4), (0.2, 0.1, 0.01, 0.001)]
READINGS = {
    "lower", "lower, beyond the margin", "lower, within the margin", "higher", "higher, beyond the margin",
    "higher, within the margin", "equivalent", "undecided", "both lost", "both kept", "map lost, accuracy kept",
    "map kept, accuracy lost", "map open, accuracy kept", "loses less", "loses more", "loses as much", "open",
    "no loss",
}  # fmt: skip


def make(root, generator, bits, guided, noise, given):
    """A folder of results with what claims rest on, of networks of ten seeds with random changes of each score."""
    rng, planted, claims = np.random.default_rng(generator), {}, STUDY.claims

    def change(training, precision, name, column):
        score = column.split("_")[0]  # the same under every fill
        cost = planted.setdefault((precision, score), bits * rng.normal()) * (precision != "fp32")
        gain = planted.setdefault((precision, score, training), guided * rng.normal()) * (training == "guided")
        return cost + gain

    maps = made_evidence.maps(change, datasets=DATASETS, noise=noise, given=given, generator=generator)
    runs = made_evidence.runs(maps, lambda training, precision: 5 * change(training, precision, "", "accuracy"))
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


def test_claims_are_read_again(tmp_path):
    """Whatever precisions and guidance change; every verdict is among them, and every reading."""
    every = [check_claims(make(tmp_path, place, *each)) for place, each in enumerate(MADE_UP)]
    verdicts, found = zip(*every, strict=True)
    assert set().union(*verdicts) == set(VERDICTS) and READINGS <= set().union(*found)


@pytest.mark.parametrize("check", [check_claims, check_origins, check_tables])
def test_the_committed_results_are_computed_again(check):
    """Those of the paper."""
    check(paths.RESULTS)
