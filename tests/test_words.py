"""Tests of saqlib.words: every identifier has its words, and no words are left without one."""

import inspect
import re
import subprocess
import sys

import pytest
import torch

from saqlib import names, paths, words
from saqlib.clarity.controls import control_maps
from saqlib.clarity.preservation import preservation_scores
from saqlib.clarity.scores import clarity_scores
from saqlib.datasets import DATASETS
from saqlib.evidence.settings import ACCURACY
from saqlib.network.initial import build
from saqlib.network.settings import named
from tests.parameters import RAW


def test_words():
    """Columns of the runs and scores have names; arrows come from the score; what is unknown is still readable."""
    assert words.name("gini") == "Gini index"
    assert words.name("retained_gini") == "Gini index, retained"
    assert words.name("preservation_ssim") == "Structural similarity"
    assert words.heading("preservation_ssim") == "Structural similarity ↑"
    assert words.heading("entropy").endswith("↓")
    assert words.heading("test_accuracy") == "Test accuracy (%) ↑"
    assert words.heading("dead_rate") == "Dead rate ↓"
    assert words.name("packed_bytes") == words.heading("packed_bytes") == "Packed bytes"
    assert (words.dataset("mnist"), words.dataset("other")) == ("MNIST", "other")


# ------------------------------------------------------------------------------------- identifiers and their words


def test_every_dataset_has_a_name_and_ten_classes():
    """Those of saqlib.datasets and no others, in one order; no class is named twice."""
    assert list(words.DATASETS) == list(words.CLASSES) == list(DATASETS)
    for dataset, classes in words.CLASSES.items():
        assert len(classes) == len(set(classes)) == 10
        assert words.dataset(dataset) == words.DATASETS[dataset] != dataset


def test_every_score_that_is_computed_has_words_and_no_other():
    """Scores of a map, of likeness, and the sensitivity; each entry says the id that it stands under."""
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    maps, targets = images.squeeze(1), torch.tensor([0, 1])
    computed = {*clarity_scores(build(named("fp32"), seed=0), images, targets, maps, 2), "sensitivity_max"}
    likeness = preservation_scores(maps, maps)
    assert set(likeness) == set(names.PRESERVATION)
    assert set(words.SCORES) == computed | set(likeness)
    assert all(score.id == key for key, score in words.SCORES.items())


def test_every_identifier_of_names_has_words():
    """Primary and preservation scores are scores; they do not overlap; what answers a question has a name and arrow."""
    assert {*names.PRIMARY, *names.PRESERVATION} <= set(words.SCORES)
    assert not {*names.PRIMARY} & {*names.PRESERVATION}
    for column in (*names.ANSWERS, *names.GAINS):
        assert words.heading(column) == f"{words.name(column)} ↑" and "_" not in words.name(column)
    assert len(names.PRIMARY) == len(names.PRESERVATION) == 4


def test_the_answers_are_what_the_questions_of_maps_ask_for():
    """Columns that figures and tables show as answers are those of params.yaml; the relevance gain's is its mean."""
    asked = [column for column in RAW["claims"]["questions"].values() if column != ACCURACY]
    assert [names.FAITHFULNESS if column == names.RELEVANCE_GAIN else column for column in asked] == [*names.ANSWERS]


def test_every_method_has_words_and_no_other():
    """The gradient first, then the others in their order."""
    assert tuple(words.METHODS) == (names.GRADIENT, *names.OTHER_METHODS)


def test_every_control_has_words_and_no_other():
    """The untrained network first, then the maps that explain no network, in the order in which they are made."""
    maps = control_maps(torch.rand(1, 1, 28, 28), torch.Generator().manual_seed(0))
    assert tuple(words.CONTROLS) == (names.UNTRAINED, *maps)


def test_identifiers_are_identifiers_and_all_different():
    """Names in data are lower-case words joined by underscores; words are for people only."""
    ids = [*words.SCORES, *words.METHODS, *words.CONTROLS, *words.DATASETS, names.SEED_TO_SEED]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch("[a-z][a-z0-9_]*", each) for each in ids)


def test_every_name_is_shared_by_somebody():
    """A constant of saqlib.names that nobody but its own tests reads should go."""
    texts = [path.read_text() for path in (paths.ROOT / "saqlib").rglob("*.py") if path.name != "names.py"]
    for constant in (name for name, value in inspect.getmembers(names) if name.isupper() and value):
        assert any(re.search(rf"\bimport\b.*\b{constant}\b", text) for text in texts), constant


# ---------------------------------------------------------------------------------------------------- the scores


@pytest.mark.parametrize("score", words.SCORES.values(), ids=list(words.SCORES))
def test_a_score_says_what_a_reader_needs(score):
    """A range in order, chance within it, an arrow, and a question that is one."""
    assert score.low < score.high
    assert score.chance is None or score.low <= score.chance <= score.high
    assert score.arrow == {"higher": "↑", "lower": "↓"}[score.direction]
    assert score.question.endswith("?") and score.question[0].isupper()
    assert words.name(score.id) == score.name and words.heading(score.id) == f"{score.name} {score.arrow}"


@pytest.mark.parametrize("kind", ["name", "symbol", "question"])
def test_no_two_scores_look_alike(kind):
    """A reader who meets a name, a symbol or a question knows the score."""
    values = [getattr(score, kind) for score in words.SCORES.values()]
    assert len(values) == len(set(values))


def test_words_need_neither_torch_nor_captum():
    """A table or a figure has its words without waiting for the networks' libraries."""
    code = "import sys, saqlib.words; print(sorted({'torch', 'captum', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
