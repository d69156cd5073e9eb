"""Every verdict once more, from the committed CSVs and params.yaml alone, by scipy and statsmodels: no code of ours.

It reads what anybody may read: results/evidence/networks.csv and untrained.csv, results/fills/<dataset>.csv, and the
section `claims`. Written from the claims' words, not from saqlib.evidence.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

LABELS = ["claim", "dataset", "training", "question"]


@cache
def _share_of_flips(differences: tuple[float, ...]) -> float:
    """P-value of "the mean is above 0", over all flips of signs; sums that differ by rounding alone are equal."""
    values = np.round(np.array(differences), 12)
    found = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="greater", vectorized=True
    )
    return float(found.pvalue)


def above(values: np.ndarray) -> float:
    """P-value of "above 0"; NaN if a value is missing or there are fewer than two."""
    return _share_of_flips(tuple(values)) if len(values) > 1 and np.isfinite(values).all() else np.nan


def all_above(parts: list[np.ndarray]) -> float:
    """All of them above 0: the largest p-value."""
    return float(np.max([above(part) for part in parts]))


def corrected(p: list[float]) -> np.ndarray:
    """Holm's correction by statsmodels, of what was tested."""
    found, tested = np.full(len(p), np.nan), np.isfinite(p)
    if tested.any():
        found[tested] = multipletests(np.array(p)[tested], method="holm")[1]
    return found


class Numbers:
    """The CSVs of one dataset."""

    def __init__(self, results: Path, dataset: str, claims: dict):
        networks, untrained = (pd.read_csv(results / "evidence" / f"{n}.csv") for n in ("networks", "untrained"))
        keys = ["images", "training", "precision", "seed"]
        self.networks = networks[networks.dataset == dataset].set_index(keys).sort_index()
        keys.remove("precision")
        self.untrained = untrained[untrained.dataset == dataset].set_index(keys).sort_index()
        fills = pd.read_csv(results / "fills" / f"{dataset}.csv")
        self.fills, self.claims = fills.fill[fills.qualifies].tolist(), claims

    def columns(self, question: str) -> list[str]:
        """What answers a question."""
        column = self.claims["questions"][question]
        return [f"relevance_gain_{fill}" for fill in self.fills] if column == "relevance_gain" else [column]

    def of(self, column: str, training: str, precision: str, images: str = "primary") -> np.ndarray:
        """A column by seed."""
        return self.networks.loc[images, training, precision].sort_index()[column].to_numpy()

    def margin(self, column: str, training: str, images: str = "primary") -> np.ndarray:
        """What does not matter, by seed."""
        reference = self.of(column, training, self.claims["reference"], images)
        if column == "test_accuracy":
            return np.full(len(reference), self.claims["margins"]["accuracy"])
        below = self.untrained.loc[images, training].sort_index()[column].to_numpy()
        return self.claims["margins"]["maps"] * (reference - below)


def row(label, wanted, contrary, change=(), margin=(), gate=None) -> dict:
    """One comparison: p-values, uncorrected. contrary: the ways in which the opposite may hold."""
    for_, against = 2 * all_above(wanted), 2 * len(contrary) * np.min([all_above(way) for way in contrary])
    p = float(np.minimum(1.0, np.minimum(for_, against))) if np.isfinite(for_) else np.nan
    same = [max(above(c + m), above(m - c)) for c, m in zip(change, margin, strict=True)]
    return {
        "comparison": label, "p": p, "toward": np.sign(against - for_), "same": max(same) if same else np.nan,
        "gate": gate,
    }  # fmt: skip


def comparisons(n: Numbers, claim: dict, training: str, question: str) -> list[dict]:
    """The comparisons of a claim in its order."""
    columns, reference, listed = n.columns(question), n.claims["reference"], claim["precisions"]
    at = lambda column, b, t=training, images="primary": n.of(column, t, b, images)  # noqa: E731
    lost = lambda c, b, t=training, images="primary": at(c, b, t, images) - at(c, reference, t, images)  # noqa: E731
    margin = [n.margin(c, training) for c in columns]
    found = []
    if claim["test"] == "loss":
        for b in listed:
            d = [lost(c, b) for c in columns]
            found.append(row(f"{b} - {reference}", [-x for x in d], [d], d, margin))
    elif claim["test"] == "steps":
        for more, fewer in zip(listed, listed[1:], strict=False):
            d = [at(c, fewer) - at(c, more) for c in columns]
            found.append(row(f"{fewer} - {more}", [-x for x in d], [d], d, margin))
    elif claim["test"] == "joint_loss":
        for b in listed:
            points, d = lost("test_accuracy", b), [lost(c, b) for c in columns]
            ways = [[-points, *d], [points, *(-x for x in d)]]
            margins = [n.margin("test_accuracy", training), *margin]
            label = f"{b} - {reference}, and accuracy"
            found.append(row(label, [-points, *(-x for x in d)], ways, [points, *d], margins))
    elif claim["test"] == "gain":
        for b in listed:
            d = [at(c, b) - at(c, b, "standard") for c in columns]
            margins = [n.margin(c, "standard") for c in columns]
            found.append(row(f"guided - standard, {b}", d, [[-x for x in d]], d, margins))
    elif claim["test"] == "non_inferiority":
        for b in listed:
            d = [lost(c, b) + m for c, m in zip(columns, margin, strict=True)]
            found.append(row(f"{b} - {reference} > -margin", d, [[-x for x in d]]))
    elif claim["test"] == "mitigation":
        found = mitigation(n, columns, listed, lost)
    elif claim["test"] == "between":
        high, middle, low = listed
        upper, lower = ([at(c, a) - at(c, b) for c in columns] for a, b in ((high, middle), (middle, low)))
        ways = [[-x for x in upper], [-x for x in lower]]
        found = [row(f"{low} < {middle} < {high}", upper + lower, ways, upper + lower, margin * 2)]
    elif claim["test"] == "loss_at_equal_confidence":
        for b in listed:
            d = [lost(c, b, training, "matched") for c in columns]
            margins = [n.margin(c, training, "matched") for c in columns]
            gate = b, 2 * all_above([-lost(c, b) for c in columns])
            found.append(row(f"{b} - {reference}, equal confidence", [-x for x in d], [d], d, margins, gate))
    return found


def mitigation(n: Numbers, columns: list[str], listed: list[str], lost) -> list[dict]:
    """Losses of guided minus those of standard training, in units and as shares of what training gives."""
    found, reference, share = [], n.claims["reference"], n.claims["margins"]["maps"]
    for b in listed:
        gate = b, 2 * all_above([-lost(c, b, "standard") for c in columns])
        d = [lost(c, b, "guided") - lost(c, b, "standard") for c in columns]
        margins = [n.margin(c, "standard") for c in columns]
        found.append(row(f"guided - standard, {b} - {reference}", d, [[-x for x in d]], d, margins, gate))
        given = {t: [n.margin(c, t) / share for c in columns] for t in ("guided", "standard")}
        label = f"guided - standard, share kept at {b}"
        if not all((values > 0).all() for both in given.values() for values in both):
            found.append({"comparison": label, "p": np.nan, "toward": 0, "same": np.nan, "gate": None})
            continue
        kept = {t: [1 + lost(c, b, t) / g for c, g in zip(columns, given[t], strict=True)] for t in given}
        d = [a - s for a, s in zip(kept["guided"], kept["standard"], strict=True)]
        found.append(row(label, d, [[-x for x in d]], d, [np.full(len(x), share) for x in d], gate))
    return found


def family(rows: list[dict], level: float) -> list[dict]:
    """Corrected p-values and words; what presumes a loss that is not there is not asked."""
    gates = dict(each["gate"] for each in rows if each["gate"])
    shown = dict(zip(gates, corrected([np.minimum(1.0, p) for p in gates.values()]) <= level, strict=True))
    for each in rows:
        each["asked"] = each["gate"] is None or bool(shown[each["gate"][0]])
        if not each["asked"]:
            each.update(p=np.nan, same=np.nan)
    p, same = corrected([each["p"] for each in rows]), corrected([each["same"] for each in rows])
    for each, p_holm, same_holm in zip(rows, p, same, strict=True):
        each.update(p_holm=p_holm, verdict="undecided")
        if p_holm <= level and each["toward"]:
            each["verdict"] = "supported" if each["toward"] > 0 else "opposite"
        elif same_holm <= level:
            each["verdict"] = "equivalent"
    return rows


def whole(test: str, rows: list[dict]) -> str:
    """The word on the question."""
    said = [each["verdict"] for each in rows if each["asked"]]
    if test == "joint_loss" and ("supported" in said) != ("opposite" in said):
        return "supported" if "supported" in said else "opposite"
    return said[0] if len(set(said)) == 1 and said[0] in ("supported", "opposite", "equivalent") else "undecided"


def recomputed(results: Path, claims: dict) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every comparison with p, p_holm and verdict, and every question's verdict, from the files of `results`."""
    tests, answers = [], []
    order = pd.read_csv(results / "evidence" / "networks.csv")[["dataset", "training"]].drop_duplicates()
    numbers = {dataset: Numbers(results, dataset, claims) for dataset in order.dataset.unique()}
    for claim in claims["hypotheses"]:
        for dataset, training in order.itertuples(index=False, name=None):
            if claim["test"] in ("gain", "mitigation") and training == "standard":
                continue
            for question in claim["questions"]:
                rows = family(comparisons(numbers[dataset], claim, training, question), claims["level"])
                key = dict(zip(LABELS, (claim["id"], dataset, training, question), strict=True))
                tests += [key | {k: each[k] for k in ("comparison", "p", "p_holm", "verdict")} for each in rows]
                answers.append(key | {"verdict": whole(claim["test"], rows)})
    return pd.DataFrame(tests), pd.DataFrame(answers)
