"""A fresh run beside the committed one: python -m study.run verify [--fresh FOLDER] [--committed FOLDER]

Compares every verdict, and every number of results/tables that has an interval: by how many half-widths of the
committed 95 % interval the fresh one differs. Without --committed the committed one is what git has of results/, and
without --fresh the fresh one is results/ in the checkout, as `make reproduce` leaves it. A run on part of the grid is
compared with that part. Writes build/verify.csv; exit code 1 if a verdict has changed.
"""

import io
import subprocess
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

from saqlib.errors import last_line, of_the_system
from study import files, paths
from study.report import labels, tables

# With mean, low and high in each row.
MEASURED = ("accuracy", "clarity", "relevance_gain", "retained", "preservation", "secondary", "maps")
REPORT = paths.BUILD / "verify.csv"


class VerifyError(RuntimeError):
    """There is nothing to compare; the message says what is missing."""


# ------------------------------------------------------------------------------------------------- comparing


def verdicts(fresh: Path, committed: Path) -> pd.DataFrame:
    """One row per claim, dataset, training and question: the committed verdict, the fresh one, whether it changed."""
    keys = ["claim", "dataset", "training", "question"]
    both = _joined(fresh, committed, "verdicts", keys)
    both = both.rename(columns={"verdict_committed": "committed", "verdict_fresh": "fresh"})
    return both.assign(changed=both.committed != both.fresh)[[*keys, "committed", "fresh", "changed"]]


def numbers(fresh: Path, committed: Path) -> pd.DataFrame:
    """One row per number that has an interval: both values, half the committed interval, the difference in units of it.

    Equal numbers, or two that could not be measured, differ by 0; one that only one run could measure by infinity.
    """
    found = []
    for name in ("claims", *MEASURED):
        value = "estimate" if name == "claims" else "mean"
        keys = ["claim", "dataset", "training", "question", "comparison"] if name == "claims" else None
        both = _joined(fresh, committed, name, keys)
        named = both[[column for column in both if not column.endswith(("_fresh", "_committed"))]]
        old, new = both[f"{value}_committed"], both[f"{value}_fresh"]
        half = (both.high_committed - both.low_committed) / 2
        difference = ((new - old).abs() / half).fillna(np.inf).mask((new == old) | (new.isna() & old.isna()), 0.0)
        number = named.astype(str).agg(" ".join, axis=1)
        columns = {"table": name, "number": number, "committed": old, "fresh": new, "half_width": half}
        found.append(pd.DataFrame(columns | {"difference": difference}))
    return pd.concat(found, ignore_index=True)


def _joined(fresh: Path, committed: Path, name: str, keys: list[str] | None) -> pd.DataFrame:
    """One table of both runs, row beside row; the committed one's further rows are left out."""
    new, old = (_table(folder, name) for folder in (fresh, committed))
    keys = keys or list(old.columns[: list(old.columns).index("mean")])
    for folder, table in ((fresh, new), (committed, old)):
        if missing := [key for key in keys if key not in table]:
            raise VerifyError(f"{name}.csv of {folder} has no column {missing[0]}: another version wrote it")
    both = new.merge(old, on=keys, how="left", suffixes=("_fresh", "_committed"), indicator=True, validate="1:1")
    if (unmatched := both[both._merge == "left_only"][keys]).size:
        raise VerifyError(
            f"{name}.csv of {committed} has no row {' '.join(unmatched.iloc[0])}: these are runs of other settings"
        )
    return both.drop(columns="_merge")


def _table(results: Path, name: str) -> pd.DataFrame:
    path = results / "tables" / f"{name}.csv"
    if not path.exists():
        raise VerifyError(f"{path} does not exist; `make reproduce` writes it")
    return pd.read_csv(path)


# ------------------------------------------------------------------------------------------------- reporting


def report(fresh: Path, committed: Path) -> tuple[str, bool]:
    """The table to print, and whether every verdict is the same. Writes build/verify.csv with every single number."""
    changes, differences = verdicts(fresh, committed), numbers(fresh, committed)
    files.write(REPORT, files.csv(differences))
    changed, equal = int(changes.changed.sum()), int((differences.difference == 0).sum())
    known = len(_table(committed, "verdicts"))
    part = "" if len(changes) == known else f" (of {known} committed ones, the others were not run)"
    summary = (
        f"{changed or 'None'} of {len(changes)} verdicts changed{part}; {equal} of {len(differences)} numbers equal."
    )
    text = tables.markdown(_summary(changes, differences))
    return f"{text}\n{summary}\nEvery number: {REPORT.relative_to(paths.ROOT)}", not changed


def _summary(changes: pd.DataFrame, differences: pd.DataFrame) -> pd.DataFrame:
    """One row per claim, dataset, training and question, with the largest difference among its tests; one per table."""
    rows, claims = [], differences[differences.table == "claims"]
    for row in changes.itertuples():
        what = f"{row.claim}, {labels.dataset(row.dataset)}, {row.training}, {row.question}"
        now = f"{row.fresh} (CHANGED)" if row.changed else row.fresh
        own = claims[claims.number.str.startswith(f"{row.claim} {row.dataset} {row.training} {row.question} ")]
        rows.append({"what": what, "committed": row.committed, "fresh": now} | _largest(own))
    for name in MEASURED:
        own = differences[differences.table == name]
        rows.append({"what": f"table {name}", "committed": "", "fresh": ""} | _largest(own))
    return pd.DataFrame(rows)


def _largest(differences: pd.DataFrame) -> dict[str, str]:
    largest, at = tables.MISSING, ""
    if not differences.empty:
        worst = differences.loc[differences.difference.idxmax()]
        largest, at = f"{worst.difference:.2f}", worst.number if worst.difference > 0 else ""
    return {"numbers": str(len(differences)), "largest difference (half-widths)": largest, "at": at}


# ------------------------------------------------------------------------------------------ where results are


EXECUTED = Path("executed") / "05_compare.ipynb"  # in build/, from the stage that writes the tables; git has none of it
OTHERWISE = "name the folder to compare with: --committed FOLDER"


def committed_results(folder: Path) -> Path:
    """results/ as git has it, unpacked into a folder; VerifyError outside git or before anything was committed."""
    command = ["git", "-C", str(paths.ROOT), "archive", "--format=zip", "HEAD", "results/tables"]
    try:
        done = subprocess.run(command, capture_output=True)
    except OSError as error:
        raise VerifyError(f"git cannot be run ({of_the_system(error)}); {OTHERWISE}") from None
    if done.returncode:
        reason = last_line(Exception(done.stderr.decode("utf-8", "replace")))
        raise VerifyError(f"git has no results/ here ({reason}); {OTHERWISE}")
    with zipfile.ZipFile(io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder)
    return folder / "results"


def own_results() -> Path:
    """results/ in the checkout, as a run here wrote it; VerifyError where none did, as in an untouched clone."""
    if not (paths.BUILD / EXECUTED).exists():
        raise VerifyError(
            "nothing has been run here: results/ are the committed ones, which would be compared with themselves."
            " Run `make reproduce` first, or name the results of another run: --fresh FOLDER"
        )
    return paths.RESULTS


def verify(fresh: Path | None = None, committed: Path | None = None) -> tuple[str, bool]:
    """What `report` says of a fresh run and the committed one, each found where the module's docstring says."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = fresh or own_results()
        return report(fresh, committed or committed_results(Path(scratch)))
