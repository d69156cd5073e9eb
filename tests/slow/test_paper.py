"""Tests of the whole paper: on made-up results in the form that study writes, and on the committed ones, changed."""

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
from study import files, paths
from study.report import labels, paper, style, tables
from tests.helpers import made_tables
from tests.helpers.made import DATASETS, TRAININGS

CELLS = [(dataset, training) for dataset in DATASETS for training in TRAININGS]
PAPER = (paths.ROOT / "paper" / "paper.typ").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The paper beside everything that it reads: tables and figures as the library writes them, of ten seeds."""
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
    fills = pd.DataFrame({"fill": FILLS, "straight_through": 0.5, "image": [0.7, 0.3, 0.1, 0.4], "seeds": 3})
    fills = fills.assign(low=fills.straight_through - fills.image, qualifies=fills.straight_through > fills.image)
    frames = {"runs": runs, "evidence/saturation": pd.DataFrame(columns=["dataset"])}
    for name, frame in (frames | {f"fills/{dataset}": fills for dataset in DATASETS}).items():
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


def test_another_run_than_the_papers_gets_its_grid_figures_and_tables_and_no_prose(whole, shown):
    """Ten seeds are not the run that sentences are about: no abstract, no section; all six figures of the text."""
    said = " ".join(texts(in_paper(whole, "heading")))
    assert "Supplement" in said and "Introduction" not in said and "Built at scale" not in said
    captions = " ".join(" ".join(texts(figure["caption"])) for figure in shown)
    main = ("map_first", "which_map", "saturation", "guidance", "fills", "looks")
    assert all(style.alternative(name).split(":")[0] in captions for name in main)
    assert "no longer" not in captions and "Fewer bits make" not in captions


def test_a_reader_sees_words_and_no_identifiers(shown):
    """Controls, methods and the pair of seeds stand in the tables as everywhere else."""
    every = texts(shown)
    methods = {labels.map_name(name) for name in saliency.METHODS}
    assert {*labels.CONTROLS.values(), *methods, *labels.PRECISIONS.values(), "two seeds of full precision"} <= {
        *every, "8 bits", *labels.PRECISIONS.values()}  # fmt: skip
    identifiers = {*labels.CONTROLS, *saliency.METHODS, *REGISTRY, *labels.PRECISIONS, SEED_TO_SEED} - {"occlusion"}
    assert not identifiers & set(every) and not [text for text in every if re.search(r"\w_\w|\bw\da\d", text)]


def test_every_word_of_the_second_run_stands_in_the_paper(shown):
    """A row for each claim and question, the word of each dataset and training in its place, or a dash."""
    own = pd.read_csv(paths.ROOT / "paper" / "second_run.csv")
    claims = own[["claim", "question"]].drop_duplicates().itertuples(index=False, name=None)
    (table,) = [each["body"] for each in shown if own.text.iloc[0] in " ".join(texts(each["body"]))]
    words = [text for text in texts(table) if text in (*VERDICTS, "–")]
    verdicts = own.set_index(["claim", "question", "dataset", "training"]).verdict
    assert words == [verdicts.get((*claim, *cell), "–") for claim in claims for cell in CELLS]


def test_without_ablations_the_paper_says_so(whole, shown):
    """One sentence in place of the figure, at the scales that run none."""
    path = whole / "results" / "tables" / "ablations.csv"
    before = path.read_bytes()
    path.write_bytes(before.splitlines(keepends=True)[0])
    try:
        counts = [sum("the sign is lost" in " ".join(texts(each["caption"])) for each in every)
                  for every in (shown, in_paper(whole, "figure"))]  # fmt: skip
    finally:
        path.write_bytes(before)
    assert counts == [1, 0]


# ------------------------------------------------------------------------------------------------ the committed paper


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """A copy of the paper and of the committed results that it is about."""
    root = tmp_path_factory.mktemp("committed")
    for name in ("paper", "results"):
        ignore = shutil.ignore_patterns("notebooks", "models", "runs", "*.md")
        shutil.copytree(paths.ROOT / name, root / name, ignore=ignore)
    shutil.copy(paths.PARAMS, root)
    return root


def test_the_committed_results_bear_out_every_sentence(committed):
    """So the paper compiles; with its references it has eight pages at most, and its abstract about 170 words."""
    assert paper.build(committed).read_bytes().startswith(b"%PDF")
    assert in_paper(committed, "<last-page>")[0]["value"] <= 8
    words = re.findall("[A-Za-z0-9][^ ]*", " ".join(texts(in_paper(committed, "<abstract>"))))
    assert 140 <= len(words) <= 190


# What is changed in a copy of the results: the file, the rows, a column and its new value; and what can then no longer
# be said.
ONE = "dataset == 'mnist' and training == 'standard' and question == '{}' and comparison == '{}'"
CHANGES = {
    "accuracy is not kept": ("tables/grid_confirming", ONE.format("accuracy", "w4a4 - fp32"), "size", "open",
        "Four bits keep accuracy"),
    "one map is not lost": ("tables/grid_confirming", ONE.format("faithfulness", "w4a4 - fp32"), "size", "open",
        "Four bits keep accuracy"),
    "one map is as stable": ("tables/grid_confirming", ONE.format("stability", "w2a2 - fp32"), "word", "equivalent",
        "less faithful and less stable"),
    "accuracy stays at 4/2 bits": ("tables/grid_confirming", ONE.format("accuracy", "mixed - fp32"), "word",
        "equivalent", "it is lower in all four"),
    "accuracy goes first": ("tables/grid", ONE.format("accuracy", "w4a4 - fp32"), "estimate", -0.3, "First the map"),
    "both are lost at 4 bits": ("tables/claims", ONE.format("faithfulness", "w4a4 - fp32, and accuracy"), "reading",
        "both lost", "the map is lost and the accuracy kept"),
    "passing recovers less": ("tables/registered", "claim == 'C2' and test == 'recovered' and training == 'guided'",
        "word", "open", "Passing the gradient through"),
    "clipping is not all": ("tables/registered", "claim == 'C3' and test == 'lost' and dataset == 'mnist'", "word",
        "refuted", "clip does the harm"),
    "an open range costs accuracy": ("tables/registered", "test == 'variant_not_inferior' and dataset == 'mnist'",
        "word", "open", "a range that clips nothing"),
    "an open range loses the map": ("tables/ablations", "variant == 'max_range' and question == 'faithfulness' and "
        "comparison == 'w4a4 - fp32' and dataset == 'mnist'", "estimate", -0.1, "a range that clips nothing"),
    "clipped seeds lose no more": ("tables/registered", "claim == 'C4' and test == 'together'", "word", "open",
        "the one that clips more loses a little more"),
    "integrated gradients fall": ("tables/maps", "training == 'guided' and precision == 'w2a2' and "
        "map == 'integrated_gradients' and fill == 'qualifying'", "mean", 0.3, "integrated gradients lose at most"),
    "the image falls behind": ("tables/maps", "dataset == 'mnist' and precision == 'w2a2' and map == 'image' and "
        "fill == 'blur'", "mean", 0.01, "the image leads"),
    "black is fair": ("tables/maps", "dataset == 'mnist' and precision == 'fp32' and map == 'image' and fill == 'zero'",
        "mean", 0.1, "the bare image"),
    "black qualifies": ("fills/mnist", "fill == 'zero'", "qualifies", True, "qualify on both datasets"),
    "focus stays": ("tables/grid_confirming", "question == 'focus' and comparison == 'w4a4 - fp32'", "word",
        "undecided", "Focus is lower in all twelve"),
    "weights decide": ("tables/ablations", "variant == 'mixed_w2a4' and question == 'faithfulness' and "
        "comparison == 'mixed - w4a4'", "high", -0.01, "the activations decide"),
    "rounding takes nothing": ("tables/ablations", "variant == 'unrounded' and question == 'faithfulness' and "
        "comparison == 'w2a2 - fp32'", "estimate", -0.2, "What saturates"),
    "focus has one mode": ("tables/focus", "metric == 'gini' and biases == 'none above 0'", "low", 0.3,
        "hang on whether"),
    "guidance costs nothing": ("tables/grid_confirming", "dataset == 'fashion_mnist' and question == 'accuracy' and "
        "comparison == 'guided - standard, w4a4'", "word", "equivalent", "Guidance makes FashionMNIST"),
    "guidance protects": ("tables/claims", "claim == 'B2' and question == 'faithfulness' and dataset == 'mnist'",
        "verdict", "supported", "hardly reduces"),
    "the second network differs": ("ablations/batch_norm", "precision == 'w2a2'", "pass_through_relevance_gain_noise",
        -1, "Three convolutions with batch norm"),
    "the device is too small": ("tables/device", "core == 'Cortex-M0' and precision == 'w2a2'", "ram_bytes", 20000,
        "fits a Cortex-M0"),
    "long training mends it": ("tables/alternatives", "question == 'faithfulness' and alternative == 'twenty_epochs'",
        "agrees", False, "What overturns the losses is another map"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_the_results_no_longer_show_cannot_be_said(change, committed):
    """The build stops, and names a sentence that is no longer true."""
    name, rows, column, value, sentence = CHANGES[change]
    path = committed / "results" / f"{name}.csv"
    before = path.read_bytes()
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    chosen = frame.query(rows).index
    assert len(chosen), "the change changes something"
    frame.loc[chosen, column] = str(value)
    try:
        path.write_text(frame.to_csv(index=False))
        with pytest.raises(paper.PaperError, match=f"(?s)results/ no longer say: “[^”]*{sentence}"):
            paper.build(committed)
    finally:
        path.write_bytes(before)


def test_what_failed_stands_in_the_introduction(committed):
    """A registered comparison that does not come as expected is named there, before what did."""
    path = committed / "results" / "tables" / "registered.csv"
    before = path.read_bytes()
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    chosen = frame.query("claim == 'C7' and dataset == 'mnist' and comparison.str.contains('accuracy')").index
    frame.loc[chosen, ["word", "came"]] = ["open", "False"]
    try:
        path.write_text(frame.to_csv(index=False))
        listed = " ".join(texts(in_paper(committed, "<findings>")))
    finally:
        path.write_bytes(before)
    assert listed.index("Guidance by pass-through maps gives a higher accuracy") < listed.index(
        "registered comparisons"
    )
