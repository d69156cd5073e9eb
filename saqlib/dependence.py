"""What a verdict depends on: the choices that were made, the fill of removed pixels, the method that makes a map.

An answer is **firm** if it says something (it is not `undecided`) and stays the same under all alternatives that apply:
each qualifying fill by itself; every set of images; without Holm's correction; with signed ranks (a median) or
Student's t in place of sign flips of the mean; with a trend test in place of steps; without any one seed; and in at
least FIRM_SHARE of resamples of the seeds. That all comparisons must agree is no alternative: whatever the strict
reading decides, the lenient one decides alike (saqlib.verdicts).

An answer is about **maps** if at least ENOUGH of four methods have the sign that it says, else about **gradients**. The
gradient of the log-probability is none of the four: it is the same gradient, scaled image by image. Signs of means over
the few images that every method explained; significance is not asked again.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from saqlib.claims import ACCURACY, RULES, Array, Claims, Comparison, Evidence
from saqlib.scores import FILLS, GRADIENT, RELEVANCE_GAIN
from saqlib.statistics import page_trend, signed_ranks, t_tests
from saqlib.verdicts import KEYS, OPPOSITE, SUPPORTED, UNDECIDED, Answers, Decision, Family, decide, evaluate, families

FIRM_SHARE = 0.9  # of resamples: one in ten may differ, since resampled seeds repeat, and are fewer than they seem
RESAMPLES = 1000
COUNTED, ENOUGH = (GRADIENT, "integrated_gradients", "smoothgrad", "occlusion"), 3
MAPS, GRADIENTS = "maps", "gradients"
Words = dict[tuple[str, ...], str]  # the verdict by the family's key


# ------------------------------------------------------------------------------------------------------- choices


def robustness(evidence: Evidence, claims: Claims, *, resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """One row per verdict and alternative: in how many of its cases the verdict stays the same.

    Args:
        evidence: the scores of every network.
        claims: what is claimed.
        resamples: how often the seeds are drawn anew, with replacement.
        seed: of these draws.

    Returns:
        The columns KEYS, verdict, alternative, cases, same, otherwise (the other words, with their counts), stays
        (whether the verdict does under that alternative), firm (the same in all rows of a verdict).
    """
    answers = evaluate(evidence, claims)
    cases: dict[str, list[Words]] = {}
    for name, words in _alternatives(evidence, claims, answers, np.random.default_rng(seed), resamples):
        cases.setdefault(name, []).append(words)
    rows = []
    for key, verdict in answers.words.items():
        own = []
        for name, found in cases.items():
            if words := [each[key] for each in found if key in each]:
                counts = Counter(words)
                same = counts.pop(verdict, 0)
                otherwise = ", ".join(f"{word} {count}" for word, count in counts.most_common())
                own.append([name, len(words), same, otherwise, stays(name, len(words), same)])
        firm = verdict != UNDECIDED and all(row[-1] for row in own)
        rows += [[*key, verdict, *row, firm] for row in own]
    columns = ["verdict", "alternative", "cases", "same", "otherwise", "stays", "firm"]
    return pd.DataFrame(rows, columns=[*KEYS, *columns])


def stays(alternative: str, cases: int, same: int) -> bool:
    """Whether a verdict stays under an alternative: in all of its cases, or in most resamples."""
    return same >= FIRM_SHARE * cases if alternative == "seeds resampled" else same == cases


def standing(found: pd.DataFrame, answers: Answers) -> pd.DataFrame:
    """What the alternatives leave of each verdict, one row for each, in the order of the answers.

    Returns:
        stays: under how many alternatives; alternatives: of how many that apply; firm.
    """
    groups = found.groupby(KEYS, sort=False)
    counts = groups.agg(stays=("stays", "sum"), alternatives=("stays", "size"), firm=("firm", "first"))
    return counts.reindex(pd.MultiIndex.from_tuples(answers.words, names=KEYS)).reset_index(drop=True)


def _alternatives(
    evidence: Evidence, claims: Claims, answers: Answers, draw: np.random.Generator, resamples: int
) -> Iterator[tuple[str, Words]]:
    """Each alternative's name with the words on those families to which it applies; several cases have one name."""
    exact = Decision(claims.level)
    for fill in dict.fromkeys(fill for qualifying in evidence.fills.values() for fill in qualifying):
        chosen = [each for each in _by_one(fill, evidence, claims) if fill in evidence.fills[each.dataset]]
        yield f"{fill} alone", decide(chosen, exact).words
    for images in ("all", "matched"):
        runs, untrained = ({**frames, "primary": frames[images]} for frames in (evidence.runs, evidence.untrained))
        chosen = families(replace(evidence, runs=runs, untrained=untrained), claims)
        chosen = [each for each in chosen if _of_maps(each, claims) and each.claim.test != "loss_at_equal_confidence"]
        yield f"{images} images", decide(chosen, exact).words
    yield "no Holm correction", decide(answers.families, replace(exact, correct=False)).words
    yield "signed ranks", decide(answers.families, replace(exact, test=signed_ranks)).words
    yield "t-tests", decide(answers.families, replace(exact, test=t_tests)).words
    yield "trend for steps", _trends(answers, claims.level)
    seeds = max((len(each.shown) for family in answers.families for each in family.comparisons), default=0)
    choices = [("one seed left out", np.delete(np.arange(seeds), left_out)) for left_out in range(seeds)]
    choices += [("seeds resampled", draw.integers(seeds, size=seeds)) for _ in range(resamples)]
    for name, rows in choices:
        yield name, decide([each.take(rows) for each in answers.families], exact).words


def _of_maps(family: Family, claims: Claims) -> bool:
    return claims.questions[family.question] != ACCURACY


def _trends(answers: Answers, level: float) -> Words:
    """Page's test over all precisions and over those without the first one, in place of steps that each go down."""
    words = {}
    for family in answers.families:
        made = [each.change for each in family.comparisons if not each.note]
        if family.claim.test == "steps" and len(made) == len(family.comparisons) > 2:
            words[family.key] = _trend(np.stack(made, axis=2), answers.words[family.key], level)
    return words


def _trend(changes: Array, verdict: str, level: float) -> str:
    """The word by trend of changes (seeds, parts, steps); whether nothing changes is not a trend test's to say."""
    if len(changes) < 2 or not np.isfinite(changes).all():
        return UNDECIDED
    levels = np.concatenate([np.zeros_like(changes[:, :, :1]), changes.cumsum(2)], axis=2)
    for word, sign in ((SUPPORTED, -1), (OPPOSITE, 1)):
        tables = [sign * part[:, start:] for part in levels.swapaxes(0, 1) for start in (0, 1)]
        if 2 * max(page_trend(table) for table in tables) <= level:
            return word
    return UNDECIDED if verdict in (SUPPORTED, OPPOSITE) else verdict


# --------------------------------------------------------------------------------------------------------- fills


def by_fill(evidence: Evidence, claims: Claims) -> pd.DataFrame:
    """What the comparisons of faithfulness say where removed pixels become one thing and no other.

    A verdict on faithfulness must hold under every fill that qualifies. Where it is undecided, these rows tell whether
    fills disagree or seeds are too few; fills that do not qualify stand beside them.

    Returns:
        One row per comparison and fill, those of a comparison together: the columns of Answers.tests, and behind the
        comparison `fill` and `qualifies`, as on that dataset.
    """
    parts = []
    for fill in FILLS:
        tests = decide(_by_one(fill, evidence, claims), Decision(claims.level)).tests()
        place = tests.columns.get_loc("comparison") + 1
        tests.insert(place, "fill", fill)
        tests.insert(place + 1, "qualifies", [fill in evidence.fills[name] for name in tests.dataset])
        parts.append(tests)
    return pd.concat(parts).sort_index(kind="stable").reset_index(drop=True)


def _by_one(fill: str, evidence: Evidence, claims: Claims) -> list[Family]:
    found = families(replace(evidence, fills=dict.fromkeys(evidence.fills, (fill,))), claims)
    return [each for each in found if claims.questions[each.question] == RELEVANCE_GAIN]


# ------------------------------------------------------------------------------------------------------- methods


def other_methods(evidence: Evidence, claims: Claims, answers: Answers, methods: pd.DataFrame) -> pd.DataFrame:
    """One row per comparison of maps: its estimate by each of four methods, how many bear the verdict out, and the
    word.

    Args:
        evidence: what the answers rest on.
        claims: what is claimed.
        answers: the verdicts, by the gradient on all images.
        methods: one row per network and method: dataset, training, precision, method, seed and the scores.

    Returns:
        The columns KEYS, comparison, verdict, one for each of COUNTED, agree, about; the last two are empty where the
        verdict says no sign. A comparison that other methods cannot make, such as one of shares of what training gives,
        is left out.
    """
    found = [_by_method(evidence, claims, methods[methods.method == method]) for method in COUNTED]
    rows = []
    for family, judged in zip(answers.families, answers.judged, strict=True):
        if _of_maps(family, claims) and RULES[family.claim.test].signed:
            theirs = [by_key[family.key].comparisons for by_key in found]
            for own, *made in zip(judged, *theirs, strict=True):
                if not any(each.note for each in made):
                    rows.append([*family.key, made[0].label, own.verdict, *_agreement(own.verdict, made)])
    return pd.DataFrame(rows, columns=[*KEYS, "comparison", "verdict", *COUNTED, "agree", "about"])


def _by_method(evidence: Evidence, claims: Claims, scores: pd.DataFrame) -> Mapping[tuple[str, ...], Family]:
    """The comparisons by one method, by the family's key. Other methods' maps of untrained networks were not scored."""
    accuracy = evidence.runs["primary"][["dataset", "training", "precision", "seed", ACCURACY]]
    runs = scores.drop(columns=ACCURACY, errors="ignore").merge(accuracy, on=list(accuracy.columns[:-1]))
    untrained = runs[runs.precision == claims.reference].drop(columns=["precision", ACCURACY])
    unknown = untrained.assign(**{name: np.nan for name in untrained.select_dtypes("float")})
    own = replace(evidence, runs={"primary": runs}, untrained={"primary": unknown})
    return {family.key: family for family in families(own, claims)}


def _agreement(verdict: str, made: Sequence[Comparison]) -> list:
    """The estimate of each method, how many have the sign that the verdict says, and what it is about."""
    estimates = [float(each.shown.mean()) for each in made]
    if verdict not in (SUPPORTED, OPPOSITE):
        return [*estimates, "", ""]
    ways = [[each.wanted] if verdict == SUPPORTED else each.contrary for each in made]
    agree = sum(any((way.mean(0) > 0).all() for way in each) for each in ways)
    return [*estimates, agree, MAPS if agree >= ENOUGH else GRADIENTS]


def about(claims: Claims, methods: pd.DataFrame, answers: Answers) -> list[str]:
    """Of each verdict, in the order of the answers: maps, gradients, or nothing where it says no sign of maps.

    It is about maps if each comparison that says the verdict's word is; of the joint loss one such comparison is
    enough.
    """
    tests = {claim.id: claim.test for claim in claims.hypotheses}
    groups = dict(iter(methods[methods.about != ""].groupby(KEYS, sort=False)))
    found = []
    for key, verdict in answers.words.items():
        words = groups[key].about[groups[key].verdict == verdict].tolist() if key in groups else []
        enough = any if RULES[tests[key[0]]].lenient else all
        found.append("" if not words else MAPS if enough(word == MAPS for word in words) else GRADIENTS)
    return found
