"""The page *Change one thing*: each change, as it is printed there, is made in a scratch copy and seen in a result."""

import hashlib
import json
import re
import shutil
import subprocess
import sys

import pytest

from saqlib.data import FILES, content
from study import dvc, paths

PAGE = (paths.ROOT / "site" / "pages" / "change.md").read_text(encoding="utf-8")
DIFFS = dict(re.findall(r"^## (.+?)$.*?^```diff\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL))
CAPITALS = ("TRAIN_IMAGES", "TRAIN_LABELS", "TEST_IMAGES", "TEST_LABELS")
# Two cells of one dataset, trained and scored in a minute; what a run leaves of them, as JSON.
RUN = """
import json, sys
from dataclasses import replace
from study import frames, results, settings
from study.report import labels, style, tables
from saqlib import findings, scores
dataset, precisions = sys.argv[1], sys.argv[2:]
study = settings.load(scale="smoke")
grid = replace(study.grid, datasets=(dataset,), precisions=tuple(precisions), trainings=("standard",))
size = replace(study.size, epochs={dataset: 2}, images=40, images_expensive=4)
study = replace(study, device="cpu", grid=grid, size=size)
results.decide_fills(dataset, study)
for cell in grid.cells:
    results.train_cell(cell, study)
    results.score_cell(cell, study)
found = frames.collect(grid, precisions[0])
runs = found.runs["primary"]
print(json.dumps({
    "runs": json.loads(runs.to_json(orient="records")), "fills": open(f"results/fills/{dataset}.csv").read(),
    "secondary": tables.markdown(tables.secondary(runs).shown),
    "maps": tables.markdown(tables.maps(findings.maps_table(found.maps, scores.FILLS, study.size.exploring)).shown),
    "accuracy": tables.markdown(tables.accuracy(runs).shown),
    "looks": {name: look.colour for name, look in style.looks(runs.precision).items()},
}))
"""
KEY = "from study import cells, settings; s = settings.load(); c = s.cell('mnist', 'w2a2', 'guided');"
KEY += "print(cells.train_network.key(s.recipe(c), 0, 'cpu'))"


@pytest.fixture
def folder(tmp_path):
    """A scratch copy of what the study runs, without results."""
    for name in ("saqlib", "study", "site/pages", "tests/sample"):
        shutil.copytree(paths.ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(paths.PARAMS, tmp_path)
    return tmp_path


def apply(folder, title: str, **replaced: str) -> None:
    """Make the change of one section as a reader does, from the page of the copy."""
    text = DIFFS[title]
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    subprocess.run(["git", "apply", "-C1", "-"], cwd=folder, input=text.encode(), check=True)


def python(folder, *arguments: str) -> str:
    """What Python prints there, with the code of that folder; it has to succeed."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=dvc.environment(folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_section_is_tried_here():
    """And every change of the page is the only one of its section."""
    titles = {"A bit-width", "A dataset of the same shape", "A score", "A fill", "A saliency method", "A figure"}
    assert DIFFS.keys() == titles and PAGE.count("```diff") == len(titles)


def test_a_bit_width_and_a_figure(folder):
    """Networks of those bits are trained, scored and tabled; a colour changes; the key of no other network does."""
    for title in ("A bit-width", "A figure"):
        apply(folder, title)
    assert python(folder, "-c", KEY) == python(paths.ROOT, "-c", KEY)
    left = json.loads(python(folder, "-c", RUN, "mnist", "fp32", "w3a3"))
    assert [f"{row['precision']} {row['seed']}" for row in left["runs"]] == ["fp32 0", "fp32 1", "w3a3 0", "w3a3 1"]
    assert all(row["test_accuracy"] > 20 and row["gini"] for row in left["runs"]) and "w3a3" in left["accuracy"]
    assert left["looks"] == {"fp32": "#222222", "w3a3": "#009E73"}
    weights = "from study import models; n = models.load('mnist-w3a3-standard', 0); print(n.conv2.bits, n.conv1.bits)"
    assert python(folder, "-c", weights) == "3 8\n"


def test_a_dataset_a_score_a_fill_and_a_method(folder):
    """Each reaches the results and tables of a run; FashionMNIST's sample stands in for KMNIST's files."""
    source = paths.SAMPLE / "fashion_mnist"
    hashes = [hashlib.sha256(content(source, name)).hexdigest() for name in FILES]
    apply(folder, "A dataset of the same shape", **dict(zip(CAPITALS, hashes, strict=True)))
    for title in ("A score", "A fill", "A saliency method"):
        apply(folder, title)
    for place in (folder / "tests" / "sample", folder / "data"):
        shutil.copytree(source, place / "kmnist")
    fetch = "from study import download; download.fetch('kmnist', print)"
    assert "verified" in python(folder, "-c", fetch)
    left = json.loads(python(folder, "-c", RUN, "kmnist", "fp32", "w2a2"))
    assert len(left["runs"]) == 4 and "KMNIST" in left["accuracy"]
    assert all(0 < row["peak"] < 1 and -1 < row["relevance_gain_grey"] < 1 for row in left["runs"])
    assert "Peak" in left["secondary"] and "\ngrey," in left["fills"] and "gradient times input" in left["maps"]
