"""Everything that stage `compare` writes, from what the stages before it have left; nothing is trained or scored.

compare(study, root)    results/runs.csv, results/evidence/, results/tables/ and results/figures/ under the root
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from saqlib import findings, firmness, registered
from saqlib.claims import ACCURACY
from saqlib.grid import grid as compared
from saqlib.scores import FAITHFULNESS, FILLS, GRADIENT, IMAGE, PASS_THROUGH, PRIMARY, RELEVANCE_GAIN, UNTRAINED
from saqlib.statistics import interval_if_any, ratio
from study import files, frames, models, paths
from study.frames import Collection
from study.report import effects, figures, labels, main_figures, pictures, style, tables, training
from study.settings import Study

if TYPE_CHECKING:
    import xarray as xr

Variants = Mapping[str, pd.DataFrame]  # results/ablations/<name>.csv by name
EVERY = 5  # of the classes, those whose maps are shown in the main text
SIGNED = "signed_ranking"  # the ablation that ranks pixels as the released code of guidance does


@dataclass(frozen=True)
class Output:
    """Where figures, tables and frames go: results/ of a root."""

    results: Path

    def figure(self, figure: Figure, name: str, numbers: pd.DataFrame | None = None) -> None:
        """Write a figure, with the numbers that it plots."""
        style.save(figure, name, self.results / "figures", numbers)
        plt.close(figure)

    def table(self, table: tables.Table) -> None:
        """Write a table, for machines and for people."""
        tables.write(table, self.results / "tables")


def compare(study: Study, root: Path = paths.ROOT) -> None:
    """Write it all; MissingError if a stage has not left what is needed.

    Costs and what a device needs are left out where stages `deploy` and `device` have not been.
    """
    out, reference = Output(root / "results"), study.claims.reference
    collected = frames.collect(study.grid, reference, root)
    runs = collected.runs["primary"]
    files.write(out.results / "runs.csv", files.csv(runs))
    for name, frame in collected.per_seed(study.size.exploring).items():
        files.write(out.results / "evidence" / f"{name}.csv", files.csv(frame))
    left = findings.retained(runs, collected.untrained["primary"], reference)
    _scores(out, collected, left)
    _pictures(out, study, root)
    _during(out, study, root)
    variants = {name: frames.ablation(name, root) for name in study.ablations}
    changes = _ablations(out, collected, study, variants)
    verdicts = _verdicts(out, collected, study, changes)
    _claims(out, collected, study, variants, verdicts)
    shown = findings.maps_table(collected.maps, FILLS, study.size.exploring)
    out.table(tables.maps(shown))
    out.table(tables.listed("randomization", findings.randomized(collected.cascade, study.claims)))
    _main_figures(out, collected, study, shown, variants)
    _costs(out, runs, left, root)


# --------------------------------------------------------------------------------------- what networks score


def _scores(out: Output, collected: Collection, left: pd.DataFrame) -> None:
    """Tables of means, and the figures of the supplement that are made of scores."""
    runs, reference, untrained = collected.runs["primary"], collected.reference, collected.untrained["primary"]
    controls = tables.controls(collected.maps, reference)
    for table in (
        tables.accuracy(runs), tables.clarity(runs, controls), tables.focus(runs), tables.secondary(runs),
        tables.relevance_gain(collected.maps, controls), tables.retained(left),
        tables.preservation(runs, collected.likeness, reference),
    ):  # fmt: skip
        out.table(table)
    means = tables.over_seeds(runs, tables.CELL, ["amplitude"])
    out.figure(figures.clarity(runs, controls), "clarity")
    out.figure(figures.removal(collected.curves), "curves")
    out.figure(figures.deletion_accuracy(collected.accuracies), "deletion_accuracy")
    out.figure(figures.outline(collected.outline), "outline", collected.outline)
    out.figure(figures.preservation(runs, collected.likeness, reference), "preservation")
    out.figure(figures.amplitude(runs, untrained), "amplitude", means)
    out.figure(figures.gradients(collected.gradients), "gradients")


def _during(out: Output, study: Study, root: Path) -> None:
    """Scores and maps while networks train."""
    course = frames.collect_during(study.grid, root)
    out.figure(training.courses(course), "during", course)
    out.table(tables.during(frames.around_the_switch(course)))
    ends, records = (study.grid.precisions[0], study.grid.precisions[-1]), {}
    for name in study.grid.datasets:
        rows = {}
        for cell in (study.cell(name, p, t) for t in study.grid.trainings for p in ends):
            steps, images, maps = models.record(cell, root)
            switch = frames.report(cell, root)["switch"]
            rows[f"{labels.precision(cell.precision)},\n{cell.training}"] = training.Course(steps, maps[:, 0], switch)
        records[labels.dataset(name)] = images[0], rows
    out.figure(training.training_maps(records), "training_maps")


def _costs(out: Output, runs: pd.DataFrame, left: pd.DataFrame, root: Path) -> None:
    """What each network weighs, and what it needs on a microcontroller."""
    if (out.results / "deployment.csv").exists():
        out.table(tables.deployment(pd.read_csv(out.results / "deployment.csv"), runs, left))
    if (out.results / "device" / "measured.csv").exists():
        device = tables.device(*frames.on_device(root))
        out.table(device)
        out.figure(figures.device(device.numbers), "device", device.numbers)


# ---------------------------------------------------------------------------------------- verdicts and claims


def _ablations(out: Output, collected: Collection, study: Study, variants: Variants) -> pd.DataFrame:
    """Every difference that a variant changes, as saqlib.findings.effects has it."""
    answered = {ACCURACY, *PRIMARY, RELEVANCE_GAIN}  # what ablations are scored by
    asked = {question: column for question, column in study.claims.questions.items() if column in answered}
    changes = findings.effects(collected.as_ablation, variants, asked, collected.reference, collected.fills)
    out.figure(effects.ablations(changes), "ablations")
    out.table(tables.ablations(changes, study.claims.questions))
    return changes


def _verdicts(out: Output, collected: Collection, study: Study, changes: pd.DataFrame) -> pd.DataFrame:
    """Every comparison with its verdict, of all seeds and of those that confirm, and what takes it back; the first."""
    evidence = (collected.runs["primary"], collected.maps, collected.fills, study.claims)
    others = {"matched": collected.runs["matched"], "effects": changes}
    every = {"grid": None, "grid_confirming": range(study.size.exploring, study.size.seeds)}
    found = {}
    for name, seeds in every.items():
        verdicts, tests = compared(*evidence, seeds=seeds)
        edges = firmness.alternatives(*evidence, seeds=seeds, **others)
        found[name] = firmness.firm(verdicts, edges), edges
        out.table(tables.grid(found[name][0], name))
        out.table(tables.listed(f"{name}_tests", tests))
    verdicts, edges = found["grid"]
    out.table(tables.alternatives(edges))
    return verdicts


def _claims(out: Output, collected: Collection, study: Study, variants: Variants, verdicts: pd.DataFrame) -> None:
    """Claims as readings of the grid; the registered ones, and how often each word would come."""
    exploring, claims = study.size.exploring, study.claims
    seen = registered.Frames(
        collected.maps, collected.saturation, collected.as_ablation, variants, collected.fills
    )  # fmt: skip
    came = registered.evaluate(study.registered, seen, claims, exploring)
    read = findings.readings(verdicts, collected.runs["primary"], collected.maps, collected.fills, claims)
    read = pd.concat([read, findings.registered_rows(came)], ignore_index=True)
    out.table(tables.listed("claims", read, claims.questions))
    out.table(tables.registered(came, claims.questions))
    confirming = study.size.seeds - exploring
    chances = registered.power(study.registered, seen, claims, range(exploring), confirming=confirming)
    out.table(tables.listed("power", chances))


# ---------------------------------------------------------------------------------- the figures of the main text


def _main_figures(out: Output, collected: Collection, study: Study, shown: pd.DataFrame, variants: Variants) -> None:
    """Those that plot numbers, each with its table."""
    reference, points = study.claims.reference, study.claims.margins.accuracy
    numbers = map_first(collected)
    out.figure(main_figures.map_first(numbers, points), "map_first", numbers)
    numbers = which_map(shown, reference)
    out.figure(main_figures.which_map(numbers, reference), "which_map", numbers)
    numbers = saturation(collected, variants)
    out.figure(main_figures.saturation(numbers), "saturation", numbers)
    numbers = guidance(collected, variants)
    out.figure(main_figures.guidance(numbers, points), "guidance", numbers)
    numbers = fills(shown, collected)
    out.figure(main_figures.fills(numbers), "fills", numbers)


def map_first(collected: Collection) -> pd.DataFrame:
    """What is kept of the faithfulness that training gives, and the change in accuracy: of each seed, and the means.

    Intervals are Fieller's of the share and Student's of the points. Rows of the precision `image` have the share that
    the bare image would keep.
    """
    runs, untrained, reference = collected.runs["primary"], collected.untrained["primary"], collected.reference
    bare = collected.maps[(collected.maps["map"] == IMAGE) & (collected.maps.precision == reference)]
    rows = []
    for cell, own in runs.groupby(["dataset", "training"], sort=False):
        floor, image = (_faithfulness(frame, *cell) for frame in (untrained, bare))
        by_seed = own.pivot(index="seed", columns="precision", values=[FAITHFULNESS, ACCURACY])
        gains = by_seed[FAITHFULNESS].sub(floor, axis=0).assign(**{IMAGE: image - floor})
        points = by_seed[ACCURACY].sub(by_seed[ACCURACY][reference], axis=0).assign(**{IMAGE: np.nan})
        for precision in [*own.precision.unique(), IMAGE]:
            key = dict(zip(tables.CELL, (*cell, precision), strict=True))
            kept, change = gains[precision] / gains[reference], points[precision]
            low, high = ratio(gains[precision], gains[reference])[1:]
            ends = interval_if_any(change) if precision != IMAGE else [np.nan] * 3
            rows.append(key | {"kept": gains[precision].mean() / gains[reference].mean(), "kept_low": low,
                               "kept_high": high, "points": change.mean(), "points_low": ends[1],
                               "points_high": ends[2]})  # fmt: skip
            if precision != IMAGE:
                rows += [key | {"seed": seed, "kept": kept[seed], "points": change[seed]} for seed in kept.index]
    columns = ["dataset", "training", "precision", "seed", "kept", "kept_low", "kept_high", "points", "points_low",
               "points_high"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _faithfulness(frame: pd.DataFrame, dataset: str, training: str) -> pd.Series:
    return frame[(frame.dataset == dataset) & (frame.training == training)].set_index("seed")[FAITHFULNESS]


def which_map(shown: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Of all maps, as saqlib.findings.maps_table has them, those of the figure: of all seeds, over qualifying fills."""
    precisions = style.in_order(shown.precision)
    chosen = shown["map"].isin([*main_figures.MAPS, IMAGE]) & (shown.fill == "qualifying") & (shown.seeds == "all")
    ends = shown.precision.isin([reference, precisions[1 % len(precisions)], precisions[-1]])
    return shown[chosen & ends].drop(columns=["fill", "seeds", "floor"])


def saturation(collected: Collection, variants: Variants) -> pd.DataFrame:
    """How faithful two maps are, and what is clipped, in the main grid and in what variants change, over all images.

    Returns the columns of study.report.tables.over_seeds by dataset, training, precision and variant. metric is
    straight_through or pass_through, their faithfulness, or clipped: the share of units, the mean over the layers.
    """
    keys = [*tables.CELL, "variant"]
    clipped = collected.saturation.groupby([*tables.CELL, "seed"]).clipped.mean().reset_index()
    main = collected.as_ablation.assign(variant=main_figures.MAIN)
    parts = [main.merge(clipped, on=[*tables.CELL, "seed"], how="left")]
    for name in (name for name in main_figures.VARIANTS if len(variants.get(name, ()))):
        own = variants[name][variants[name].changed.astype(bool)]
        parts.append(own.assign(variant=name, clipped=own.filter(regex="^clipped_").mean(axis=1)))
    found = []
    for dataset, own in pd.concat(parts, ignore_index=True).groupby("dataset", sort=False):
        own = own.assign(**{name: _over_fills(own, collected.fills[dataset], prefix)
                            for name, prefix in ((GRADIENT, ""), (PASS_THROUGH, f"{PASS_THROUGH}_"))})  # fmt: skip
        found.append(tables.over_seeds(own, keys, [GRADIENT, PASS_THROUGH, "clipped"]))
    return pd.concat(found, ignore_index=True)


def _over_fills(networks: pd.DataFrame, qualifying: Sequence[str], prefix: str = "") -> pd.Series | float:
    """Faithfulness of each network, of which only the fills' gains are known."""
    columns = [f"{prefix}{RELEVANCE_GAIN}_{fill}" for fill in qualifying]
    return networks[columns].mean(axis=1, skipna=False) if columns else np.nan


def guidance(collected: Collection, variants: Variants) -> pd.DataFrame:
    """What guided training gives beyond standard training, paired by seed, over all images: in the main grid, and
    where pixels are ranked by sign.
    """
    rankings = dict(zip(main_figures.RANKINGS, (collected.as_ablation, variants.get(SIGNED)), strict=True))
    rows = []
    for ranking, table in rankings.items():
        for dataset, own in () if table is None else table.groupby("dataset", sort=False):
            own = own.assign(**{FAITHFULNESS: _over_fills(own, collected.fills[dataset])})
            for question, column in ((FAITHFULNESS, FAITHFULNESS), ("accuracy", ACCURACY)):
                by_seed = own.pivot(index=["precision", "seed"], columns="training", values=column)
                for precision in own.precision.unique() if {"guided", "standard"} <= set(by_seed) else ():
                    change = (by_seed.guided - by_seed.standard)[precision]
                    bounds = change.mean(), *interval_if_any(change)[1:]
                    rows.append([dataset, precision, question, ranking, *bounds])
    return pd.DataFrame(rows, columns=["dataset", "precision", "question", "ranking", "mean", "low", "high"])


def fills(shown: pd.DataFrame, collected: Collection) -> pd.DataFrame:
    """The straight-through map of the reference and the bare image under each fill, first training, all seeds."""
    chosen = shown["map"].isin([GRADIENT, IMAGE]) & (shown.precision == collected.reference) & (shown.seeds == "all")
    chosen &= (shown.training == shown.training.iloc[0]) & shown.fill.isin(FILLS)
    own = shown[chosen].drop(columns=["training", "precision", "seeds", "floor"])
    pairs = zip(own.dataset, own.fill, strict=True)
    return own.assign(qualifies=[fill in collected.fills[dataset] for dataset, fill in pairs])


# ------------------------------------------------------------------------------------------------------- pictures


def _pictures(out: Output, study: Study, root: Path) -> None:
    """Maps of all classes for the supplement, and of some for the main text."""
    for dataset in study.grid.datasets:
        out.figure(pictures.saliency_grid(*frames.saliency_grid(dataset, study.grid, root)), f"saliency_{dataset}")
    out.figure(main_figures.looks({name: looks(name, study, root) for name in study.grid.datasets}), "looks")


def looks(dataset: str, study: Study, root: Path) -> main_figures.Looks:
    """Of every fifth class an image that all networks classify correctly where there is one, with its maps by networks
    of the typical seed with the first training, and by one before training; and how faithful each is on that image.
    """
    import torch

    from saqlib.controls import untrained
    from saqlib.data import as_input
    from saqlib.saliency import input_gradient

    training, order = study.grid.trainings[0], study.grid.precisions
    seed = frames.typical_seed(dataset, training, study.grid, root)
    images, names, _ = frames.saliency_grid(dataset, study.grid, root)
    images, names = images[::EVERY], names[::EVERY]
    gains = [f"{RELEVANCE_GAIN}_{fill}" for fill in frames.fills(dataset, root)]
    maps, scores, means = {}, {}, {}

    def show(words: str, shown: NDArray, of_images: "xr.DataArray") -> None:
        own = of_images.sel(score=gains).mean("score", skipna=False)  # NaN of an image on which it was not scored
        maps[words], scores[words], means[words] = shown, own.reindex({own.dims[-1]: wanted}).values, float(own.mean())

    for precision in dict.fromkeys([order[0], order[1 % len(order)], order[-1]]):
        cell = frames.scores(study.cell(dataset, precision, training), root).sel(seed=seed)
        places = [(cell.kept_image.values == image).all((1, 2)).argmax() for image in images]
        wanted = cell.kept.values[places]
        show(labels.precision(precision), cell.kept_map.values[places], cell.scores.sel(map=GRADIENT))
        if precision == study.claims.reference:
            floors = cell.floors.sel(explainer=GRADIENT)
    passed = cell.kept_map_pass_through.values[places]
    show(f"{labels.precision(precision)}, passed through", passed, cell.scores.sel(map=PASS_THROUGH))
    x = as_input(torch.from_numpy(images))
    network = untrained(models.load(study.cell(dataset, study.claims.reference, training), seed, root), x, seed)
    show(UNTRAINED, input_gradient(network, x).numpy(), floors)
    return main_figures.Looks(images, names, maps, scores, means)
