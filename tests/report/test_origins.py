"""Tests of saqlib.report.origins: three tables and a figure of where the loss comes from."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from saqlib.evidence.origins import FACTORS
from saqlib.names import PRESERVATION
from saqlib.report import origins, style
from tests.frames import DATASETS, PRECISIONS, TRAININGS
from tests.report.drawn import check_files, check_style
from tests.report.tabled import check

QUESTIONS, STEPS = ("focus", "coherence", "faithfulness"), ("16 codes", "32 codes")
LAYERS = ("dense3", "dense2", "dense1", "conv2", "conv1")


def frame(columns: str, *axes, **words) -> pd.DataFrame:
    """A row for every combination, with random estimates, the last of which are missing."""
    rng = np.random.default_rng(0)
    found = pd.DataFrame(list(product(DATASETS, TRAININGS, *axes)), columns=["dataset", "training", *columns.split()])
    estimate = np.where(np.arange(len(found)) % 7 == 6, np.nan, rng.normal(0.4, 0.3, len(found)))
    found = found.assign(estimate=estimate, low=estimate - 0.3, high=estimate + 0.1, p=0.1, p_holm=0.0004)
    return found.assign(**words)


def recovered() -> pd.DataFrame:
    """As saqlib.evidence.origins gives it, and so are the others."""
    made = frame("precision question off", PRECISIONS[1:], QUESTIONS, list(FACTORS), word="explains")
    return made.drop(columns=["p", "p_holm"])


def surrogate() -> pd.DataFrame:
    return frame("precision difference", PRECISIONS[1:], STEPS, verdict="supported", artefact="undecided")


def randomized() -> pd.DataFrame:
    made = frame("likeness redrawn precision", PRESERVATION, LAYERS, PRECISIONS, verdict="supported", beside=0.3)
    return made.assign(alike=0.3 - made.estimate)


def drawn():
    return origins.origins(recovered(), surrogate(), randomized())


DRAWN = {"origins": drawn}
TABLES = [(origins.switched, recovered), (origins.surrogate, surrogate), (origins.randomization, randomized)]


@pytest.mark.parametrize(("table", "made"), TABLES, ids=["switched", "surrogate", "randomization"])
def test_tables_have_their_files(table, made, tmp_path, request):
    """CSV, Markdown, LaTeX, with a row for each of the frame's, and no identifier in what people see."""
    found = table(made())
    assert found.name == request.node.callspec.id
    check(found, tmp_path)
    assert "preservation_" not in found.shown.to_string() and "Fashion" in found.shown.to_string()


def test_what_has_no_share_is_a_dash():
    """Where there is no loss."""
    shown, numbers = origins.switched(recovered()).shown, recovered()
    column = shown["Comes back [95 % interval]"]
    assert ((column == "–").to_numpy() == numbers.estimate.isna().to_numpy()).all()
    first = numbers.iloc[0]
    assert column[0] == f"{first.estimate:.2f} [{first.low:.2f}, {first.high:.2f}]".replace("-", "−")


def test_saved_twice_the_same(tmp_path):
    """PNG and PDF have the same bytes, a sensible width, and something on them."""
    check_files(drawn, "origins", tmp_path)


def test_style_is_the_papers_whatever_was_set():
    """A style that the notebook has set neither reaches the figure nor is touched by it."""
    check_style(drawn)


def test_points_are_the_numbers():
    """Shares of the fewest bits at the left, open for guided training; likeness at the right."""
    figure = drawn()
    left, middle, right = figure.axes[:3]
    own = recovered().query("dataset == 'mnist' and precision == 'w2a2'")
    heights = np.concatenate([np.asarray(each[0].get_ydata(), float) for each in left.containers])
    np.testing.assert_allclose(np.sort(heights[np.isfinite(heights)]), np.sort(own.estimate.dropna()))
    slopes = surrogate().query("dataset == 'mnist'")
    heights = np.concatenate([np.asarray(each[0].get_ydata(), float) for each in middle.containers])
    np.testing.assert_allclose(np.sort(heights[np.isfinite(heights)]), np.sort(slopes.estimate.dropna()))
    alike = randomized().query("dataset == 'mnist' and training == 'standard' and likeness == 'spearman'")
    for line, precision in zip(right.lines, PRECISIONS, strict=False):
        np.testing.assert_allclose(line.get_ydata(), alike[alike.precision == precision].alike)


def test_no_estimate_is_out_of_sight():
    """A share may be many times the loss where a map without quantizers is clearer than that of full precision."""
    frame = recovered()
    frame.loc[frame.precision == "w2a2", "estimate"] *= np.resize([1, 10, 200, -30], (frame.precision == "w2a2").sum())
    left = origins.origins(frame, surrogate(), randomized()).axes[0]
    heights = np.concatenate([np.asarray(each[0].get_ydata(), float) for each in left.containers])
    heights = heights[np.isfinite(heights)]
    assert abs(heights).max() > 20 and heights.min() < -1
    assert left.get_ylim()[0] < heights.min() and heights.max() < left.get_ylim()[1]


def test_one_dataset_training_and_precision_can_be_drawn(tmp_path):
    """And one without any loss."""
    some = "dataset == 'mnist' and training == 'standard' and precision in ('fp32', 'w2a2')"
    frames = [each.query(some) for each in (recovered(), surrogate(), randomized())]
    frames[0] = frames[0].assign(estimate=np.nan, low=np.nan, high=np.nan)
    assert all(path.stat().st_size > 1000 for path in style.save(origins.origins(*frames), "origins", tmp_path))
