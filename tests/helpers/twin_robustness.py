"""What verdicts depend on once more, from the committed CSVs: every alternative, and the other methods of saliency."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from tests.helpers.twin import LABELS, Numbers, by, comparisons, families, judge, ranks, student

METHODS = ("gradient", "integrated_gradients", "smoothgrad", "occlusion")
NO_SIGN = ("loss_at_equal_confidence", "non_inferiority")


def alternatives(results: Path, claims: dict, resamples: int):
    """Each alternative's name, with the words on what it applies to."""
    level, found = claims["level"], families(results, claims)
    networks = pd.read_csv(results / "evidence" / "networks.csv")
    accuracy = [question for question, column in claims["questions"].items() if column == "test_accuracy"]
    for fill in ("zero", "mean", "noise", "blur"):
        tables = {dataset: pd.read_csv(results / "fills" / f"{dataset}.csv") for dataset in networks.dataset.unique()}
        where = [dataset for dataset, table in tables.items() if table.set_index("fill").qualifies[fill]]
        words = judge(families(results, claims, fills=[fill]), level) if where else {}
        yield f"{fill} alone", {k: word for k, word in words.items() if k[1] in where and k[3] == "faithfulness"}
    for images in ("all", "matched"):
        other = families(results, claims, primary=images)
        kept = {k: v for k, v in other.items() if k[3] not in accuracy and v[0] != "loss_at_equal_confidence"}
        yield f"{images} images", judge(kept, level)
    yield "no Holm correction", judge(found, level, correct=False)
    yield "signed ranks", judge(found, level, test=ranks)
    yield "t-tests", judge(found, level, test=student)
    yield "trend for steps", trends(results, claims)
    seeds, draw = networks.seed.nunique(), np.random.default_rng(0)
    for seed in range(seeds):
        yield "one seed left out", judge(found, level, seeds=np.delete(np.arange(seeds), seed))
    for _ in range(resamples):
        yield "seeds resampled", judge(found, level, seeds=draw.integers(seeds, size=seeds))


def trends(results: Path, claims: dict) -> dict:
    """Page's test, with and without the first precision, of claims that every step counts."""
    words = judge(families(results, claims), claims["level"])
    tests = {claim["id"]: claim for claim in claims["hypotheses"]}
    numbers = {dataset: Numbers(results, dataset, claims) for _, dataset, *_ in words}
    found = {}
    for key, word in words.items():
        claim, dataset, training, question = key
        if tests[claim]["test"] != "steps":
            continue
        n, listed = numbers[dataset], tests[claim]["precisions"]
        tables = [np.column_stack([n.of(c, training, b) for b in listed]) for c in n.columns(question)]
        p = {
            name: max(stats.page_trend_test(np.round(sign * t[:, start:], 12), method="exact").pvalue
                      for t in tables for start in (0, 1))
            for name, sign in (("supported", -1), ("opposite", 1))
        }  # fmt: skip
        said = [name for name, value in p.items() if 2 * value <= claims["level"]]
        found[key] = said[0] if said else "equivalent" if word == "equivalent" else "undecided"
    return found


def robustness(results: Path, claims: dict, resamples: int) -> pd.DataFrame:
    """Of each verdict and alternative the cases, how often it stays, and whether that is enough."""
    words, said = judge(families(results, claims), claims["level"]), defaultdict(list)
    for name, found in alternatives(results, claims, resamples):
        for key, word in found.items():
            said[key, name].append(word == words[key])
    rows = [[*key, words[key], name, len(same), sum(same)] for (key, name), same in said.items()]
    found = pd.DataFrame(rows, columns=[*LABELS, "verdict", "alternative", "cases", "same"])
    enough = np.where(found.alternative == "seeds resampled", 0.9, 1.0)
    return found.assign(stays=found.same >= enough * found.cases)


def methods(results: Path, claims: dict) -> pd.DataFrame:
    """Of each comparison of maps how many methods bear it out, from methods.csv; empty where it says no sign."""
    found = families(results, claims)
    judge(found, claims["level"])
    tests = {claim["id"]: claim for claim in claims["hypotheses"]}
    scores = pd.read_csv(results / "evidence" / "methods.csv")
    by_method = {}
    for dataset in scores.dataset.unique():
        for method in METHODS:
            n = Numbers(results, dataset, claims)
            keys = ["training", "precision", "seed"]
            accuracy = pd.concat(n.networks.values()).query("images == 'primary'")[[*keys, "test_accuracy"]]
            own = scores[(scores.dataset == dataset) & (scores.method == method)].merge(accuracy, on=keys)
            n.networks = by(own.assign(images="primary"), "images", "training", "precision")
            # Of untrained networks nobody scored other methods.
            n.untrained = {key: rows.assign(**{c: np.nan for c in own}) for key, rows in n.untrained.items()}
            by_method[dataset, method] = n
    rows = []
    for key, (test, own) in found.items():
        claim, dataset, training, question = key
        if test in NO_SIGN or claims["questions"][question] == "test_accuracy":
            continue
        theirs = [comparisons(by_method[dataset, method], tests[claim], training, question) for method in METHODS]
        for place, each in enumerate(own):
            made = [group[place] for group in theirs]
            if not np.isnan(made[0]["shown"]).all():
                rows.append([*key, each["comparison"], each["verdict"], _agree(each["verdict"], made)])
    return pd.DataFrame(rows, columns=[*LABELS, "comparison", "verdict", "agree"])


def _agree(verdict: str, made: list[dict]) -> float:
    def positive(parts: list[np.ndarray]) -> bool:
        return all(part.mean() > 0 for part in parts)

    if verdict == "supported":
        return sum(positive(each["wanted"]) for each in made)
    if verdict == "opposite":
        return sum(any(positive(way) for way in each["contrary"]) for each in made)
    return np.nan
