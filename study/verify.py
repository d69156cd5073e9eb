"""A fresh run beside the committed one: python -m study.run verify [--fresh FOLDER] [--committed FOLDER]

Compares what claims rest on: params.yaml beside results/, and cell by cell every CSV of FILES. Words, counts of seeds,
settings, and what is there at all must be the same. Numbers may differ, as between two processors
(docs/determinism.md): one with a 95 % interval, and the ends of that, by half the committed width; those of single
networks so far that their mean over the seeds does not differ by more; p-values by a factor of 10; powers, shares of
500 simulated runs each, by .063; others by a fifth of the mean magnitude in their column. Differences are counted in
these units; on one machine there are none. What LEFT_OUT says hangs on the processor to the bit, or on other tools.

A run on part of the grid, by its params.yaml, is compared with that part: smaller families of Holm's correction and
other primary images may change words there. Without --committed the committed run is what git has, and without --fresh
the fresh one is results/ in the checkout. build/verify.csv has all differences; exit code 1 if one is too large.
"""

import io
import re
import subprocess
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from saqlib.errors import last_line, of_the_system
from study import files, paths, settings
from study.report import tables

FILES = ("*.csv", *(f"{folder}/*.csv" for folder in ("tables", "evidence", "fills", "ablations", "during")))
LEFT_OUT = "Not compared: networks, figures, notebooks, and what a device needs."
NEEDED = ("runs.csv", "tables/grid.csv", "tables/claims.csv", "evidence/maps.csv")  # no claim rests on less
KEYS = ("level", "step", "distance", "seed")  # numbers that tell rows apart; so does all text but for these words:
WORDS = ("word", "size", "verdict", "reading", "expected", "sign")
POWERS, POWER_ERROR = ("supported", "refuted"), 0.045  # columns of shares of 500 runs: see saqlib.registered.power
REPORT, SHOWN = paths.BUILD / "verify.csv", 6  # so many lines are printed of each file
COLUMNS = ["file", "what", "fresh", "committed", "size"]  # of differences; size: in units, or infinite
EXECUTED = Path("executed") / "05_results.ipynb"  # in build/, from a stage after the tables; git has none of it
ARCHIVE = "archive --format=zip HEAD params.yaml :(glob)results/**/*.csv"
OTHERWISE = "name the folder to compare with: --committed FOLDER"


class VerifyError(RuntimeError):
    """There is nothing to compare; the message says what is missing."""


def compare(fresh: pd.DataFrame, committed: pd.DataFrame) -> tuple[str, int, list[tuple]]:
    """How many rows and numbers of two tables, both as text, were compared, and all that differs."""
    keys = sorted((name for name in committed if _is_key(name, committed[name])), key="seed".__eq__)
    complete = fresh.reindex(columns=[*{*keys, *fresh}], fill_value="?")
    new, old = _labelled(complete, keys), _labelled(committed, keys)
    gaps = [("column", fresh.columns, committed.columns), ("row", new.index, old.index)]
    found = [(f"{what} {each}", *(("there", "missing")[each not in side] for side in (one, two)), np.inf)
             for what, one, two in gaps for each in one.symmetric_difference(two)]  # fmt: skip
    both = old.index.intersection(new.index, sort=False), old.columns.intersection(new.columns, sort=False)
    new, old = new.loc[both], old.loc[both]
    size, numbers = _sizes(new, old, "seed" in keys)
    for i, j in zip(*np.nonzero(size), strict=True):
        found.append((f"{old.index[i]}: {old.columns[j]}", new.iat[i, j], old.iat[i, j], float(size[i, j])))
    return f"{len(old)} of {len(committed)}", numbers, found


def _is_key(name: str, column: pd.Series) -> bool:
    """Whether it tells rows apart: one of the named numbers, or text that is no result."""
    filled = column[column != ""]
    number = pd.to_numeric(filled, errors="coerce").notna().all()  # also of an empty one
    return name in KEYS or not (number or name in WORDS or filled.isin(("True", "False")).all())


def _labelled(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The other columns, with the keys as the index, counted where they stand twice."""
    labels = pd.Series([" ".join(row) for row in table[keys].fillna("?").to_numpy(str)], dtype=object)
    again = labels.groupby(labels).cumcount().map(lambda count: f"({count + 1}) " if count else "")
    return table.drop(columns=keys).set_axis(pd.Index(again.astype(object) + labels, dtype=object))


def _sizes(new: pd.DataFrame, old: pd.DataFrame, of_seeds: bool) -> tuple[np.ndarray, int]:
    """By how much each cell differs: 0, in units of what is allowed, or infinite; and how many are numbers."""
    x, y = (each.apply(pd.to_numeric, errors="coerce").astype(float) for each in (new, old))
    apart, unit, p = (x - y).abs(), y * np.nan, y.columns[y.columns.str.match("p$|p_")]
    with np.errstate(divide="ignore", invalid="ignore"):
        if of_seeds:
            group = y.index.str.rsplit(" ", n=1).str[0]
            spread, count = (y.groupby(group).transform(what) for what in ("sem", "count"))
            apart, unit = (x - y).groupby(group).transform("mean").abs(), spread * stats.t.ppf(0.975, count - 1)
        elif {"low", "high"} <= {*y}:
            ends = y.columns.intersection(["mean", "estimate", "low", "high"])
            unit[ends] = np.outer((y.high - y.low) / 2, np.ones(len(ends)))
        apart[p], unit[p] = np.log10(x[p] / y[p]).abs(), 1.0
        unit.loc[:, unit.columns.str.endswith("seeds")] = 0.0
        unit.loc[:, unit.columns.isin(POWERS)] = POWER_ERROR * 2**0.5  # of both
        size = (apart / unit.fillna(0.2 * y.abs().mean())).fillna(np.inf).clip(lower=np.finfo(float).tiny)
    size = np.where(x.isna() | y.isna(), np.where(new == old, 0.0, np.inf), size)
    return np.where(np.isclose(x, y, rtol=1e-7, atol=1e-12), 0.0, size), int(y.notna().sum().sum())


def _table(path: Path, gone: set[str]) -> pd.DataFrame:
    """A CSV as text, without what names or pools what was not run; VerifyError for one that cannot be read."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False)
    except (OSError, ValueError) as error:  # also one that is empty, cut, or no text
        raise VerifyError(f"{path} cannot be read: {last_line(error)}") from None
    if not gone:
        return table
    there = [not gone & {*re.findall(r"\w+", " ".join(row))} for row in table.to_numpy(str)]
    return table[np.array(there, dtype=bool) & (table.get("dataset") != "all")].drop(columns="p_bh", errors="ignore")


def _settings(fresh: Path, committed: Path) -> tuple[list[tuple], set[str]]:
    """Every section that differs and may decide something, and what of the grid and its ablations was not run."""
    try:
        new, old, raw = vars(settings.load(fresh)), vars(settings.load(committed)), settings.read(committed)
        # ablations run on the grid's datasets alone, so the committed ones are those of the fresh grid
        on_grid = vars(settings.from_dict(raw | {"grid": settings.read(fresh)["grid"]}))
    except settings.ParamsError as error:
        return [(f"beside results/: {error}", "", "", np.inf)], set()
    axes = [({*getattr(new["grid"], axis)}, {*before}) for axis, before in vars(old["grid"]).items()]
    other = [name for name in old if name not in ("grid", "device", "scales") and new[name] != on_grid[name]]
    other += ["grid"] * any(now - before for now, before in axes)
    gone = {*old["ablations"]} - {*new["ablations"]}
    return [(f"{name} is another", "", "", np.inf) for name in other], gone.union(*(b - now for now, b in axes))


def report(fresh: Path, committed: Path) -> tuple[str, bool]:
    """The text to print, and whether nothing differs by too much. Writes build/verify.csv."""
    found, gone = _settings(fresh.parent / "params.yaml", committed.parent / "params.yaml")
    found, rows, folders = {"params.yaml": found}, [], (fresh, committed)
    names = [str(path.relative_to(f)) for f in folders[::-1] for form in FILES for path in sorted(f.glob(form))]
    # without those of a dataset, such as fills/mnist_seeds, of a cell or of an ablation
    names = [each for each in [*NEEDED, *names] if not gone & {*Path(each).stem.removesuffix("_seeds").split("-")}]
    for name in dict.fromkeys(names):
        try:
            *counts, own = compare(*(_table(folder / name, gone) for folder in folders))
        except VerifyError as error:
            counts, own = ["0", 0], [(str(error), "", "", np.inf)]
        found[name] = own = [("no row is in both", "", "", np.inf)] * (name in NEEDED and not counts[1]) + own
        sizes = [size for *_, size in own if size < np.inf]
        rows.append([name, *counts, len(sizes), f"{max(sizes, default=0):.2f}", sum(size > 1 for *_, size in own)])
    every = pd.DataFrame([(name, *each) for name, own in found.items() for each in own], columns=COLUMNS)
    files.write(REPORT, files.csv(every))
    table = pd.DataFrame(rows, columns=["file", "rows", "numbers", "that differ", "at most, half-widths", "too much"])
    lines, wrong = [tables.markdown(table)], every[every["size"] > 1]
    for name, own in wrong.groupby("file", sort=False):
        lines += [f"{name}: {each.what}" + f": {each.fresh or '-'} (committed: {each.committed or '-'})" * (
            each.fresh != each.committed) for each in own.head(SHOWN).itertuples()]  # fmt: skip
        lines += [f"{name}: and {len(own) - SHOWN} more"] * (len(own) > SHOWN)
    lines += [f"Not in the fresh run's grid, and left out: {', '.join(sorted(gone))}."] * bool(gone)
    lines.append(f"{len(rows)} files: {table['that differ'].sum()} of {table.numbers.sum()} numbers differ.")
    lines.append(f"{len(wrong)} differences are too large. Each one: build/{REPORT.name}. {LEFT_OUT}")
    return "\n".join(lines), wrong.empty


def committed_results(folder: Path) -> Path:
    """What git has of it, unpacked into a folder; VerifyError outside git or before anything was committed."""
    try:
        done = subprocess.run(["git", "-C", str(paths.ROOT), *ARCHIVE.split()], capture_output=True)
    except OSError as error:
        raise VerifyError(f"git cannot be run ({of_the_system(error)}); {OTHERWISE}") from None
    if done.returncode:
        reason = last_line(Exception(done.stderr.decode("utf-8", "replace")))
        raise VerifyError(f"git has no results/ here ({reason}); {OTHERWISE}")
    with zipfile.ZipFile(io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder)
    return folder / "results"


def own_results() -> Path:
    """results/ in the checkout, as a run here wrote it; VerifyError where none did, or they have changed since."""
    run, known = paths.BUILD / EXECUTED, [path for path in map(paths.RESULTS.joinpath, NEEDED) if path.exists()]
    if run.exists() and all(path.stat().st_mtime <= run.stat().st_mtime + 1 for path in known):
        return paths.RESULTS
    why = "results/ have changed since the run here" if run.exists() else "nothing has been run here"
    raise VerifyError(f"{why}: they may be the committed ones. Run `make reproduce`, or name others: --fresh FOLDER")


def verify(fresh: Path | None = None, committed: Path | None = None) -> tuple[str, bool]:
    """What `report` says of a fresh run and the committed one, each found where the module's docstring says."""
    with tempfile.TemporaryDirectory() as scratch:
        return report(fresh or own_results(), committed or committed_results(Path(scratch)))
