"""The command that decides on fills: what it writes and says, and one line where something is wrong."""

import os

import pandas as pd
import pytest

from saqlib import paths
from saqlib.clarity import qualifying
from saqlib.names import FILLS
from saqlib.pipeline import fills, instructions


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """A folder without models that the command takes for the checkout, and the environment as it was."""
    for name in instructions.AVX2:
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def asked(monkeypatch) -> list[tuple]:
    """What is to be scored; nothing is: `mean` and `blur` qualify, the other fills do not."""
    made = []

    def score_fills(dataset, scoring, seeds, engine, root):
        made.append((dataset, scoring.images, seeds))
        gains = [0.5 if fill in ("mean", "blur") else 0.1 for fill in FILLS]
        return pd.DataFrame({"seed": 0, "fill": FILLS, "gradient": gains, "intensity": 0.3})

    monkeypatch.setattr(qualifying, "score_fills", score_fills)
    return made


def test_the_decision_is_written_and_told(asked, root, capsys):
    """At the scale that is named, in results/fills/ of the checkout."""
    fills.main(["fashion_mnist", "--scale", "quick"])
    assert asked == [("fashion_mnist", 200, 2)]
    assert capsys.readouterr().out == "Fills that qualify on fashion_mnist: mean, blur.\n"
    decision = pd.read_csv(root / "results" / "fills" / "fashion_mnist.csv")
    assert decision.fill[decision.qualifies].tolist() == ["mean", "blur"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mnits"], "unknown dataset 'mnits'; did you mean 'mnist'"),
        (["mnist", "--scale", "quik"], "unknown scale 'quik'; did you mean 'quick'"),
        (["mnist", "--scale", "smoke"], "train@mnist-fp32-standard"),
    ],
    ids=["dataset", "scale", "models"],
)
def test_what_is_wrong_is_told_in_one_line(arguments, message, root):
    """A name that is none, and networks that are not there; nothing is written."""
    with pytest.raises(SystemExit) as stop:
        fills.main(arguments)
    assert message in stop.value.code and "\n" not in stop.value.code
    assert not (root / "results").exists()
