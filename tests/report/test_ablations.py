"""Tests of saqlib.report.ablations: what the figure shows of each effect, and what the table says."""

import numpy as np
import pytest
from matplotlib.colors import same_color

from saqlib.report import ablations, style
from tests.evidence.test_ablations import QUESTIONS, found, reversed_coherence, variant
from tests.report.drawn import check_files, check_style


def make_effects():
    """Two variants, one of which turns what few bits do to coherence with guided training."""
    return found({"same_again": variant(), "turned": variant(reversed_coherence)})


DRAWN = {"ablations": lambda: ablations.forest(make_effects())}


def test_saved_twice_the_same(tmp_path):
    """Drawn and saved twice, PNG and PDF have the same bytes, a sensible width, and something on them."""
    check_files(DRAWN["ablations"], "ablations", tmp_path)


def test_style_is_the_papers_whatever_was_set():
    """A style that the notebook has set neither reaches the figure nor is touched by it."""
    check_style(DRAWN["ablations"])


def points(axes) -> list[tuple]:
    """(effect, marker, face, alpha) of every point of a panel."""
    dots = [line for line in axes.lines if len(line.get_xdata()) == 1]
    return [(line.get_xdata()[0], line.get_marker(), line.get_markerfacecolor(), line.get_alpha()) for line in dots]


def test_every_effect_is_a_point_and_the_main_grid_one_for_each_comparison():
    """A column per question: open points for variants, filled ones for the main grid, each with its interval."""
    effects = make_effects()
    figure = ablations.forest(effects)
    assert [axes.get_title() for axes in figure.axes] == ["Accuracy (points)", "Focus", "Coherence", "Faithfulness"]
    for axes, question in zip(figure.axes, QUESTIONS, strict=True):
        own = effects[effects.question == question]
        mains = own.drop_duplicates(["dataset", "training", "comparison"])
        drawn = points(axes)
        assert sorted(x for x, *_ in drawn) == pytest.approx(sorted([*own.estimate, *mains.main]))
        filled = [x for x, marker, face, _ in drawn if marker != "x" and not same_color(face, "white")]
        assert sorted(filled) == pytest.approx(sorted(mains.main))
        bars = [
            line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 2 and list(line.get_xdata()) != [0, 1]
        ]
        ends = {tuple(np.round(bar, 6)) for bar in bars}
        assert {tuple(np.round(pair, 6)) for pair in own[["low", "high"]].to_numpy()} <= ends


def test_a_lost_sign_is_a_red_cross():
    """Those of the one variant, dataset by dataset; nowhere else."""
    figure = ablations.forest(make_effects())
    crosses = {axes.get_title(): sum(marker == "x" for _, marker, *_ in points(axes)) for axes in figure.axes}
    assert crosses == {"Accuracy (points)": 0, "Focus": 0, "Coherence": 2, "Faithfulness": 0}


def test_what_the_main_grid_does_not_conclude_is_pale():
    """Whatever the variants find there."""
    effects = make_effects().assign(sign="", holds="", robust="")
    assert {alpha for axes in ablations.forest(effects).axes for *_, alpha in points(axes)} == {0.35}


def test_rows_are_named_and_readable():
    """The main grid on top of each block, variants in words, and no text below 6 points."""
    figure = DRAWN["ablations"]()
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names[:3] == ["main grid", "same again", "turned"]
    heads = [text.get_text() for text in figure.axes[0].texts]
    assert heads[0] == "w2a2 − fp32, standard" and "guided − standard, w2a2" in heads
    figure.canvas.draw()
    sizes = [text.get_size() for text in figure.findobj(lambda a: hasattr(a, "get_fontsize")) if text.get_text()]
    assert min(sizes) >= 6


def test_without_effects_the_figure_says_so(tmp_path):
    """A scale that runs no ablations still has the file that the pipeline expects."""
    figure = ablations.forest(make_effects().iloc[:0])
    assert "No ablation was run" in figure.axes[0].texts[0].get_text()
    assert all(path.stat().st_size > 500 for path in style.save(figure, "ablations", tmp_path))


def test_the_table_has_a_row_for_each_variant_and_comparison():
    """Effects with intervals, two decimals for points; `reversed` beside a lost sign; the numbers are the frame."""
    effects = make_effects()
    table = ablations.table(effects, QUESTIONS)
    assert table.name == "ablations" and table.numbers is effects
    assert len(table.shown) == len(effects) / 4
    assert list(table.shown)[4:] == ["Accuracy", "Focus", "Coherence", "Faithfulness"]
    turned = table.shown.Coherence.str.endswith("reversed")
    assert turned.sum() == 2 and set(table.shown[turned].Variant) == {"turned"}
    first = effects.iloc[0]
    assert table.shown.Accuracy[0].startswith(f"{first.estimate:.2f}".replace("-", "−") + " [")
    assert ablations.table(effects.iloc[:0], QUESTIONS).shown.empty
