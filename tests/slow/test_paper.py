"""Tests of the whole paper, on made-up results in the form that study writes."""

import json
import re
import shutil

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import typst

from saqlib import saliency
from saqlib.data import DATASETS as REGISTRY
from saqlib.findings import VERDICTS
from saqlib.scores import FILLS, SEED_TO_SEED
from study import files, paths, settings
from study.report import labels, paper, style, tables
from tests.helpers import made, made_tables
from tests.helpers.made import DATASETS, TRAININGS

SETTINGS = settings.load()
CELLS = [(dataset, training) for dataset in DATASETS for training in TRAININGS]
PAPER = (paths.ROOT / "paper" / "paper.typ").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The paper beside everything that it reads: tables and figures as the library writes them."""
    root = tmp_path_factory.mktemp("made")
    results = root / "results"
    shutil.copytree(paths.ROOT / "paper", root / "paper", ignore=shutil.ignore_patterns("*.pdf"))
    shutil.copy(paths.PARAMS, root)
    runs = made_tables.runs()
    for table in made_tables.every_table().values():
        tables.write(table, results / "tables")
    empty = style.save(plt.figure(figsize=(1, 1)), "empty", root)
    for name in re.findall(r'drawing\("(\w+)"', PAPER):
        for full in [name + dataset for dataset in DATASETS] if name.endswith("_") else [name]:
            for path in empty:
                files.write(results / "figures" / f"{full}{path.suffix}", path.read_bytes())
    fp32 = made.of_the_reference(made.grid())
    sets = [fp32.assign(images=name, count=40 + i, scored=60) for i, name in enumerate(("primary", "all", "matched"))]
    fills = pd.DataFrame({"fill": FILLS, "straight_through": 0.5, "image": [0.7, 0.3, 0.1, 0.4], "seeds": 3})
    fills = fills.assign(low=fills.straight_through - fills.image, qualifies=fills.straight_through > fills.image)
    frames = {
        "runs": runs, "evidence/image_sets": pd.concat(sets), "evidence/accuracies": made.accuracies(),
        "figures/outline": made.outline(), "figures/during": made.during(),
        "figures/amplitude": tables.over_seeds(runs, tables.CELL, ["amplitude"]),
    } | {f"fills/{dataset}": fills for dataset in DATASETS}  # fmt: skip
    for name, frame in frames.items():
        files.write(results / f"{name}.csv", files.csv(frame))
    plt.close("all")
    return root


def in_paper(root, selector: str) -> list:
    """The elements of the paper that a selector of Typst finds, with everything in them."""
    return json.loads(typst.query(root / "paper" / "paper.typ", selector, root=root, ignore_system_fonts=True))


def texts(content) -> list[str]:
    """Every piece of text in an element, in order."""
    if isinstance(content, dict):
        own = [content["text"]] if isinstance(content.get("text"), str) else []
        return own + [text for value in content.values() for text in texts(value)]
    return [text for item in content for text in texts(item)] if isinstance(content, list) else []


@pytest.fixture(scope="module")
def shown(whole):
    """The figures and tables of the paper, which compiles from what the library writes."""
    assert paper.build(whole).read_bytes().startswith(b"%PDF")
    return in_paper(whole, "figure")


def test_a_reader_sees_words_and_no_identifiers(shown):
    """Controls, methods and the pair of seeds stand in the tables as everywhere else; captions begin with a message."""
    every = texts(shown)
    methods = {labels.map_name(name) for name in saliency.METHODS}
    assert {*labels.CONTROLS.values(), *methods, "two fp32 seeds"} <= set(every)
    identifiers = {*labels.CONTROLS, *saliency.METHODS, *REGISTRY, SEED_TO_SEED} - {"occlusion"}
    assert not identifiers & set(every) and not [text for text in every if "_" in text]
    captions = [figure["caption"]["body"]["children"] for figure in shown]
    bold = [next(part for part in caption if part["func"] != "space") for caption in captions]
    assert len(bold) > 20 and all(part["func"] == "strong" and len("".join(texts(part))) > 15 for part in bold)


@pytest.mark.parametrize("group", ["abstract", "ours"])
def test_every_word_of_the_second_run_stands_in_the_paper(shown, group):
    """A row for each claim and question of a group, the word of each dataset and training in its place, or a dash."""
    found = pd.read_csv(paths.ROOT / "paper" / "second_run.csv")
    own = found[found.group == group]
    claims = own[["claim", "question"]].drop_duplicates().itertuples(index=False, name=None)
    (table,) = [each["body"] for each in shown if own.text.iloc[0] in " ".join(texts(each["body"]))]
    words = [text for text in texts(table) if text in (*VERDICTS, "–")]
    verdicts = own.set_index(["claim", "question", "dataset", "training"]).verdict
    assert words == [verdicts.get((*claim, *cell), "–") for claim in claims for cell in CELLS]


@pytest.mark.parametrize("name", ["fills/mnist", "evidence/accuracies", "tables/deployment", "tables/grid"])
def test_the_paper_needs_its_numbers(name, whole):
    """Without one of its files there is no paper, and the message names it."""
    path = whole / "results" / f"{name}.csv"
    hidden = path.rename(path.with_suffix(".hidden"))
    try:
        with pytest.raises(paper.PaperError, match=rf"{name}\.csv"):
            paper.build(whole)
    finally:
        hidden.rename(path)


def test_without_ablations_the_paper_says_so(whole, shown):
    """One sentence in place of the section's figure, at the scales that run none."""
    tables.write(tables.ablations(made.ablated().iloc[:0], SETTINGS.claims.questions), whole / "results" / "tables")
    counts = [sum("the sign is lost" in " ".join(texts(each["caption"])) for each in every)
              for every in (shown, in_paper(whole, "figure"))]  # fmt: skip
    assert counts[0] > 0 == counts[1]
