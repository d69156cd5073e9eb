"""Tests of saqlib.report.paper and of the paper: numbers are read while it compiles, and a missing one stops it."""

import inspect
import json
import re
import shutil

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import typst

from saqlib import files, paths, words
from saqlib.clarity import origins
from saqlib.evidence.by_fill import by_fill
from saqlib.evidence.claims import evaluate
from saqlib.evidence.during import around_the_switch
from saqlib.evidence.first_run import first_run
from saqlib.evidence.retained import retained
from saqlib.evidence.robustness import robustness, standing
from saqlib.evidence.settings import GROUPS, IMAGE_SETS
from saqlib.evidence.verdicts import VERDICTS
from saqlib.names import FILLS, SEED_TO_SEED
from saqlib.pipeline import study
from saqlib.report import ablations, amplitude, during, paper, style, tables, verdict_tables
from tests import frames
from tests.report import test_origins
from tests.report.test_ablations import make_effects
from tests.report.test_during import make_during

SETTINGS = study.load()
RUNS = "seed\n0\n1\n"
CLARITY = "dataset,training,map,metric,mean,low,high\nmnist,standard,fp32,gini,0.6251,0.6,0.65\n"
TABLES = {"accuracy": "dataset\n", "clarity": CLARITY}
TABLES |= dict.fromkeys(("verdicts", "claims", "first_run", "robustness"), "claim\n")
QUOTE = (
    '#assert(fixed(clarity("mnist", "standard", "{map}", "gini").value, 2) == "{number}", message: "another number")'
)


@pytest.fixture
def root(tmp_path):
    """A folder with results of one row and the project's own reader of results; its paper is written by a test."""
    (tmp_path / "paper").mkdir()
    for name in ("results.typ", "alt.yaml"):
        shutil.copy(paths.ROOT / "paper" / name, tmp_path / "paper")
    shutil.copy(paths.PARAMS, tmp_path)
    (tmp_path / "results" / "tables").mkdir(parents=True)
    (tmp_path / "results" / "runs.csv").write_text(RUNS)
    for name, content in TABLES.items():
        (tmp_path / "results" / "tables" / f"{name}.csv").write_text(content)
    for name in ("figures/outline", "evidence/image_sets"):
        files.write(tmp_path / "results" / f"{name}.csv", "dataset\n")
    return tmp_path


def write(root, text: str) -> None:
    (root / "paper" / "paper.typ").write_text(f'#import "results.typ": *\n{text}')


def test_a_number_is_read_while_the_paper_compiles(root):
    """Quoted as it stands in results/, rounded; after a change there the same text no longer holds."""
    write(root, QUOTE.format(map="fp32", number="0.63"))
    assert paper.build(root).read_bytes().startswith(b"%PDF")
    table = root / "results" / "tables" / "clarity.csv"
    table.write_text(table.read_text().replace("0.6251", "0.5"))
    with pytest.raises(paper.PaperError, match="another number"):
        paper.build(root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CLARITY.replace("fp32", "w4a4"), r"(?s)0 rows, not one, for .*fp32"),
        (CLARITY + CLARITY.splitlines()[1], r"(?s)2 rows, not one, for .*fp32"),
        (CLARITY.replace("0.6251", ""), "float"),
    ],
    ids=["row gone", "row twice", "value gone"],
)
def test_a_missing_number_stops_the_build(root, content, message):
    """The message names what is missing; the PDF of an earlier build stays as it was."""
    write(root, QUOTE.format(map="fp32", number="0.63"))
    before = paper.build(root).read_bytes()
    (root / "results" / "tables" / "clarity.csv").write_text(content)
    with pytest.raises(paper.PaperError, match=message):
        paper.build(root)
    assert (root / "paper" / "paper.pdf").read_bytes() == before


def test_a_missing_figure_stops_the_build(root):
    """The message names the file."""
    write(root, '#image("../results/figures/none.pdf")')
    with pytest.raises(paper.PaperError, match=r"none\.pdf"):
        paper.build(root)


def test_the_same_results_give_the_same_bytes(root):
    """No date and no identifier of the run."""
    write(root, "#runs.len() networks")
    assert paper.build(root).read_bytes() == paper.build(root).read_bytes()


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [("0.005", 2, "0.01"), (-0.25, 1, "−0.3"), (12.3456, 2, "12.35"), (-0.0001, 2, "0.00"), (7, 0, "7")],
)
def test_numbers_have_a_fixed_count_of_decimals(root, value, digits, text):
    """Rounded half away from zero, with a true minus sign, and no minus zero."""
    given = f'"{value}"' if isinstance(value, str) else value
    write(root, f'#assert(fixed({given}, {digits}) == "{text}", message: fixed({given}, {digits}))')
    paper.build(root)


def test_a_page_at_which_typst_fails_is_set_a_little_wider(root):
    """Only for its faults that hang on where a page ends, and with the same bytes each time; any other is told."""
    undated = "#set document(date: none)\n"  # as the paper itself: else the second of its making stands in it
    write(root, f'{undated}#assert(sys.inputs.leading != "0.55", message: "internal error: parent group")')
    assert paper.build(root).read_bytes() == paper.build(root).read_bytes()
    write(root, '#assert(false, message: "internal error: parent group")')
    with pytest.raises(paper.PaperError, match="parent group"):
        paper.build(root)
    write(root, '#assert(sys.inputs.leading != "0.55", message: "no such row")')
    with pytest.raises(paper.PaperError, match="no such row"):
        paper.build(root)


def test_the_command_ends_in_one_message(root, monkeypatch):
    """Exit code 1 where something is missing."""
    monkeypatch.setattr(paper, "build", lambda: (_ for _ in ()).throw(paper.PaperError("no number")))
    with pytest.raises(SystemExit, match="no number"):
        paper.main()


# --- conclusions: chosen by verdicts ---

# What a piece of content says, as a string; links and emphasis left out.
PLAIN = """
#let plain(it) = if type(it) == str { it } else if it == [ ] { " " } else if it.has("text") { it.text } else if (
  it.has("children")) { it.children.map(plain).join() } else if it.has("body") { plain(it.body) } else { "?" }
"""
CELLS = [(dataset, training) for dataset in frames.DATASETS for training in frames.TRAININGS]


def said(root, expression: str) -> str:
    """What an expression of results.typ says."""
    write(root, f"{PLAIN}#metadata(plain({expression})) <said>")
    source = root / "paper" / "paper.typ"
    found = typst.query(source, "<said>", field="value", one=True, root=root, ignore_system_fonts=True)
    return re.sub(r"\s+", " ", json.loads(found))


def decide(root, words: list[tuple[str, str]], *, claim="A1", question="accuracy", seeds=10):
    """verdicts.csv with a verdict on each cell, and whether it is firm; runs of so many seeds."""
    rows = [
        {"claim": claim, "group": "abstract", "dataset": dataset, "training": training, "question": question,
         "verdict": word, "firm": firm}
        for (dataset, training), (word, firm) in zip(CELLS, words, strict=True)
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(root / "results" / "tables" / "verdicts.csv", index=False)
    (root / "results" / "runs.csv").write_text("seed\n" + "".join(f"{seed}\n" for seed in range(seeds)))


YES, NO = ("supported", True), ("undecided", False)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([YES] * 4, "every quantized precision has less accuracy than fp32 everywhere, firmly"),
        ([("opposite", False)] * 4, "every quantized precision has more accuracy than fp32 everywhere, not firmly"),
        ([("equivalent", True)] * 4, "quantization changes accuracy by less than the margin everywhere, firmly"),
        ([NO] * 4, "what quantization does to accuracy is undecided everywhere"),
        (
            [YES, ("supported", False), NO, ("opposite", True)],
            "every quantized precision has less accuracy than fp32 on MNIST (1 of 2 firm); every quantized precision "
            "has more accuracy than fp32 on FashionMNIST (guided), firmly; what quantization does to accuracy is "
            "undecided on FashionMNIST (standard)",
        ),
    ],
)
def test_a_conclusion_is_what_the_verdicts_say(root, words, sentence):
    """Another word in verdicts.csv is another sentence; nobody writes it by hand."""
    decide(root, words)
    assert said(root, 'told("A1", "accuracy")') == sentence
    assert said(root, 'message("A1", "accuracy")') == sentence[0].upper() + sentence[1:] + "."


@pytest.mark.parametrize("claim", SETTINGS.claims.hypotheses, ids=lambda claim: claim.id)
def test_every_claim_has_a_sentence_for_every_word(root, claim):
    """Of each question; all four differ, but where a test cannot find equivalence."""
    for question in claim.questions:
        sentences = set()
        for word in VERDICTS:
            decide(root, [(word, True)] * 4, claim=claim.id, question=question)
            sentences.add(said(root, f'told("{claim.id}", "{question}")'))
        assert len(sentences) == len(VERDICTS) and all(question in sentence for sentence in sentences)


def test_few_seeds_say_that_they_are_too_few(root):
    """Whatever stands in the table: with 5 seeds no test reaches the level, with 6 one does."""
    decide(root, [NO] * 4, seeds=5)
    few = "5 seeds are too few to say anything of accuracy"
    assert said(root, 'told("A1", "accuracy")') == few and "too few" in said(root, 'conclusion("abstract")')
    assert "too few" in said(root, 'verdict-counts("abstract")')
    decide(root, [NO] * 4, seeds=6)
    assert "too few" not in said(root, 'told("A1", "accuracy")')


def test_a_question_without_a_verdict_stops_the_build(root):
    """The message names the claim."""
    decide(root, [YES] * 4)
    write(root, '#told("A2", "focus")')
    with pytest.raises(paper.PaperError, match="says nothing of claim A2 and focus"):
        paper.build(root)


def test_constants_are_those_of_the_code(root):
    """What the method section says of SmoothGrad, integrated gradients and occlusion, and a caption of an axis."""
    from saqlib.report import origins as drawing
    from saqlib.saliency import methods

    write(root, "#metadata(constants) <constants>")
    source = root / "paper" / "paper.typ"
    found = json.loads(typst.query(source, "<constants>", field="value", one=True, root=root, ignore_system_fonts=True))
    defaults = {
        name: {p.name: p.default for p in inspect.signature(method).parameters.values() if p.default is not p.empty}
        for name, method in (("smoothgrad", methods.smoothgrad), ("integrated", methods.integrated_gradients))
    }
    window = {"window": methods.OCCLUSION_WINDOW, "stride": methods.OCCLUSION_STRIDE}
    differences = {"window": methods.DIFFERENCE_WINDOW, "steps": list(origins.STEPS)}
    shares = {"even": drawing.EVEN}
    assert found == defaults | {"occlusion": window, "differences": differences, "shares": shares}


def factors(root, shares: list[str], factor="activations", **others: str):
    """switched.csv with a word for each dataset and training, of focus; of others the same word everywhere."""
    asked = {"focus": shares} | {question: [word] * 4 for question, word in others.items()}
    rows = [{"dataset": d, "training": t, "precision": "w2a2", "question": question, "off": factor, "word": word}
            for question, said in asked.items() for (d, t), word in zip(CELLS, said, strict=True)]  # fmt: skip
    pd.DataFrame(rows).to_csv(root / "results" / "tables" / "switched.csv", index=False)


@pytest.mark.parametrize(
    ("shares", "sentence"),
    [
        (["explains"] * 4, "of focus everywhere"),
        (["does not"] * 4, "of focus nowhere"),
        (["no loss"] * 4, "no loss of focus is shown"),
        (["explains", "does not", "no loss", "explains"], "of focus on MNIST (standard) and FashionMNIST"),
    ],
)
def test_a_factor_is_named_where_it_explains_a_loss(root, shares, sentence):
    """Of the losses that are there; another word is another sentence."""
    factors(root, shares)
    before = "without the quantization of activations at least half of a loss comes back: "
    assert said(root, 'gives-back("activations")') == before + sentence


def test_questions_of_the_same_places_stand_together(root):
    """Each place is said once."""
    factors(root, ["explains"] * 4, coherence="does not", faithfulness="explains")
    sentence = said(root, 'gives-back("activations")')
    assert sentence.endswith("comes back: of focus and faithfulness everywhere; of coherence nowhere")


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ([-0.3, -0.2, -0.1], "a falls by 0.30, b by 0.20, and c by 0.10"),
        ([-0.3, 0.2, 0.1], "a falls by 0.30, b rises by 0.20, and c by 0.10"),
        ([0.3, -0.2], "a rises by 0.30 and b falls by 0.20"),
    ],
)
def test_the_verb_is_said_once_for_what_goes_the_same_way(root, sizes, sentence):
    """And again where the direction changes."""
    items = "".join(f'(before: "{name}", value: (value: {size}, rows: ()), after: []),'
                    for name, size in zip("abc", sizes, strict=False))  # fmt: skip
    assert said(root, f"changes(({items}), 2)") == sentence


def test_what_the_surrogate_does_is_said_by_its_verdicts(root):
    """The word of both steps, place by place."""
    words = ["supported", "supported", "undecided", "opposite"]
    rows = [{"dataset": d, "training": t, "precision": "w2a2", "difference": step, "artefact": word}
            for (d, t), word in zip(CELLS, words, strict=True) for step in ("16 codes", "32 codes")]  # fmt: skip
    pd.DataFrame(rows).to_csv(root / "results" / "tables" / "surrogate.csv", index=False)
    assert said(root, "of-surrogate()") == (
        "finite differences gain more at w2a2, so part of the loss is an artefact of the surrogate on MNIST; finite "
        "differences gain less at w2a2 than at fp32, so the surrogate does not make the loss on FashionMNIST (guided); "
        "whether the surrogate makes part of the loss is undecided on FashionMNIST (standard)"
    )


@pytest.mark.parametrize(
    ("verdicts", "shown"),
    [(["supported"] * 4, "in every comparison"), (["supported", "undecided", "opposite", "supported"], "in 2 of 4")],
)
def test_how_often_a_map_follows_its_network_is_counted(root, verdicts, shown):
    """At the last step, whatever the first ones say."""
    rows = [{"dataset": d, "training": t, "redrawn": layer, "verdict": word if layer == "conv1" else "opposite"}
            for (d, t), word in zip(CELLS, verdicts, strict=True) for layer in ("dense3", "conv1")]  # fmt: skip
    pd.DataFrame(rows).to_csv(root / "results" / "tables" / "randomization.csv", index=False)
    sentence = said(root, "of-randomization()")
    assert shown in sentence and ("more like itself in 1" in sentence) == ("opposite" in verdicts)


# --- the paper itself, on made-up results in the form that the library writes ---

COSTS = ("packed_bytes", "bit_operations", "explanation_bit_operations", "zero_weights", "peak_activation_bytes",
         "packed_file_bytes", "qcdq_file_bytes")  # fmt: skip
PAPER = (paths.ROOT / "paper" / "paper.typ").read_text()


def planted(precision: str, training: str, metric: str) -> float:
    """With fewer bits accuracy falls and the Gini index rises: every verdict is said of something."""
    return {"test_accuracy": -20, "gini": 10, "amplitude": -20}.get(metric, 0) * frames.PRECISIONS.index(precision)


def runs_and_controls() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Ten seeds of every cell; controls that score less, of the reference alone."""
    runs = frames.make_runs(planted, seeds=10, datasets=frames.DATASETS)
    below = runs[runs.precision == "fp32"].drop(columns="precision")
    below = below.assign(**{score: below[score] - 1 for score in frames.SCORES})
    return runs, pd.concat([below.assign(control=control) for control in words.CONTROLS])


def tables_of_claims(runs: pd.DataFrame) -> list[tables.Table]:
    """All tables of the claims that the paper reads, of these runs."""
    found, settings = frames.evidence(runs), SETTINGS.claims
    answers = evaluate(found, settings)
    alternatives = robustness(found, settings, resamples=5)
    summary = answers.verdicts().join(standing(alternatives, answers)).assign(about="")
    return [
        verdict_tables.claims(answers.tests(), settings.questions),
        verdict_tables.verdicts(summary),
        verdict_tables.robustness(alternatives),
        verdict_tables.by_fill(by_fill(found, settings)),
        verdict_tables.first_run(first_run(found, settings, answers)),
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The paper beside everything that it reads: tables and figures as the library writes them."""
    root = tmp_path_factory.mktemp("made")
    shutil.copytree(paths.ROOT / "paper", root / "paper", ignore=shutil.ignore_patterns("*.pdf"))
    shutil.copy(paths.PARAMS, root)
    runs, controls = runs_and_controls()
    every = frames.grid(seeds=3, datasets=frames.DATASETS, entropy=lambda rng: rng.random())
    costs = frames.grid(seeds=1, datasets=frames.DATASETS, **dict.fromkeys(COSTS, lambda rng: rng.random()))
    kept = retained(runs, controls[controls.control == "untrained"], "fp32")
    for table in (
        tables.accuracy(runs),
        tables.clarity(runs, controls),
        tables.relevance_gain(runs, controls),
        tables.secondary(every.assign(auroc=0.5, sensitivity_max=0.5)),
        tables.convergence(pd.concat([runs.assign(method=method) for method in words.METHODS]), "fp32"),
        tables.preservation(runs, runs[runs.precision == "fp32"].drop(columns="precision"), "fp32"),
        tables.retained(kept),
        tables.deployment(costs.drop(columns="seed"), runs, kept),
        *tables_of_claims(runs),
        *(table(made_up()) for table, made_up in test_origins.TABLES),
    ):
        tables.write(table, root / "results" / "tables")
    files.write(root / "results" / "runs.csv", files.csv(runs))
    numbers_of_seeds(root / "results")
    places = pd.concat([every.query("seed == 0").assign(distance=d) for d in (-2, -1, 1, 2)])
    outline = places.assign(relative=1.0, pixels=0.25, salient=0.25)
    for name in re.findall(r'drawing\("(\w+)"', PAPER):
        for full in [name + dataset for dataset in frames.DATASETS] if name.endswith("_") else [name]:
            style.save(plt.figure(figsize=(1, 1)), full, root / "results" / "figures")
    files.write(root / "results" / "figures" / "outline.csv", files.csv(outline))
    files.write(root / "results" / "figures" / "amplitude.csv", files.csv(amplitude.numbers(runs)))
    files.write(root / "results" / "figures" / "during.csv", files.csv(make_during()))
    tables.write(ablations.table(make_effects(), SETTINGS.claims.questions), root / "results" / "tables")
    tables.write(during.table(around_the_switch(make_during())), root / "results" / "tables")
    plt.close("all")
    return root


def numbers_of_seeds(results):
    """What the paper reads of single seeds: how many images a set leaves, curves of accuracy, which fills qualify."""
    rows = frames.grid(seeds=3, datasets=frames.DATASETS, precisions=("fp32", "w2a2"))
    of_fp32 = rows[rows.precision == "fp32"].drop(columns="precision")
    sets = pd.concat([of_fp32.assign(images=name, count=40 + i, scored=60) for i, name in enumerate(IMAGE_SETS)])
    levels = pd.concat([rows.assign(level=level, most=90 - 80 * level, random=90 - 40 * level) for level in (0, 0.5)])
    for name, frame in (("image_sets", sets), ("accuracies", levels)):
        files.write(results / "evidence" / f"{name}.csv", files.csv(frame))
    for dataset in frames.DATASETS:
        table = pd.DataFrame({"fill": FILLS, "gradient": 0.5, "intensity": [0.7, 0.3, 0.1, 0.4], "seeds": 3})
        table["least_lead"] = table.gradient - table.intensity
        files.write(results / "fills" / f"{dataset}.csv", files.csv(table.assign(qualifies=table.least_lead > 0)))


def in_paper(root, selector: str) -> list:
    """The elements of the paper that a selector of Typst finds, with everything in them."""
    return json.loads(typst.query(root / "paper" / "paper.typ", selector, root=root, ignore_system_fonts=True))


def texts(content) -> list[str]:
    """Every piece of text in an element, in order."""
    if isinstance(content, dict):
        own = [content["text"]] if isinstance(content.get("text"), str) else []
        return own + [text for value in content.values() for text in texts(value)]
    return [text for item in content for text in texts(item)] if isinstance(content, list) else []


def test_the_paper_compiles_from_what_the_library_writes(made):
    """Tables in tidy form, figures, params.yaml: nothing that it asks for is missing."""
    assert paper.build(made).read_bytes().startswith(b"%PDF")


def test_a_reader_sees_words_and_no_identifiers(made):
    """Controls, methods and the pair of seeds stand in the tables as everywhere else in the results."""
    shown = texts(in_paper(made, "figure"))
    assert {*words.CONTROLS.values(), *words.METHODS.values(), "two fp32 seeds"} <= set(shown)
    identifiers = {*words.CONTROLS, *words.METHODS, *words.DATASETS, SEED_TO_SEED} - {"occlusion"}
    assert not identifiers & set(shown) and not [text for text in shown if "_" in text]


@pytest.mark.parametrize("group", GROUPS)
def test_every_verdict_stands_in_the_paper(made, group):
    """A row for each claim and question of a group, the word of each dataset and training in its place, or a dash."""
    found = pd.read_csv(made / "results" / "tables" / "verdicts.csv")
    found = found.set_index(["claim", "question", "dataset", "training"])
    assert set(found.verdict) == set(VERDICTS)
    columns = [(dataset, training) for dataset in frames.DATASETS for training in frames.TRAININGS]
    expected = [
        found.verdict.get((claim.id, question, *column), "–")
        for claim in SETTINGS.claims.hypotheses if claim.group == group
        for question in claim.questions for column in columns
    ]  # fmt: skip
    first = next(claim.text for claim in SETTINGS.claims.hypotheses if claim.group == group)
    (table,) = [each["body"] for each in in_paper(made, "figure") if first in " ".join(texts(each["body"]))]
    assert [text for text in texts(table) if text in (*VERDICTS, "–")] == expected


def test_every_caption_begins_with_its_message(made):
    """In bold, and more than a word."""
    captions = [figure["caption"]["body"] for figure in in_paper(made, "figure")]
    assert len(captions) > 20
    for caption in captions:
        first = next(part for part in caption["children"] if part["func"] != "space")
        assert first["func"] == "strong" and len("".join(texts(first))) > 15, texts(caption)[:5]


@pytest.mark.parametrize("name", ["evidence/image_sets", "evidence/accuracies", "fills/mnist"])
def test_the_paper_needs_the_numbers_of_seeds(name, made, tmp_path):
    """As it needs its tables."""
    root = tmp_path / "root"
    shutil.copytree(made, root)
    (root / "results" / f"{name}.csv").unlink()
    with pytest.raises(paper.PaperError, match=rf"{name}\.csv"):
        paper.build(root)


@pytest.mark.parametrize(
    "name",
    [
        *TABLES,
        "relevance_gain",
        "preservation",
        "retained",
        "secondary",
        "convergence",
        "deployment",
        "by_fill",
        "during",
        "ablations",
        "switched",
        "surrogate",
        "randomization",
    ],
)
def test_the_paper_needs_every_table(name, made, tmp_path):
    """Without one of its tables there is no paper, and the message names the table."""
    root = tmp_path / "root"
    shutil.copytree(made, root)
    (root / "results" / "tables" / f"{name}.csv").unlink()
    with pytest.raises(paper.PaperError, match=rf"{name}\.csv"):
        paper.build(root)


def test_without_ablations_the_paper_says_so(made, tmp_path):
    """One sentence in place of the section's figure, at the scales that run none."""
    root = tmp_path / "root"
    shutil.copytree(made, root)
    tables.write(ablations.table(make_effects().iloc[:0], SETTINGS.claims.questions), root / "results" / "tables")
    assert paper.build(root).read_bytes().startswith(b"%PDF")
    captions = [" ".join(texts(each["caption"])) for each in in_paper(root, "figure")]
    assert not [text for text in captions if "the sign is lost" in text]
    assert [
        text for each in in_paper(made, "figure") if "the sign is lost" in (text := " ".join(texts(each["caption"])))
    ]
