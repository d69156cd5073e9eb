"""`python -m benchmarks [part ...]`: print each part's table and write it to build/bench/."""

import argparse
from collections.abc import Callable

from benchmarks import (
    breakdown,
    dispatch,
    explaining,
    fewer_images,
    latency,
    machines,
    peers,
    quantus_check,
    scaling,
    stages,
    steps,
)
from benchmarks.timing import one_thread
from saqlib.data import DataError
from study import files, paths, processes
from study import settings as study
from study.settings import Study

FOLDER = paths.BUILD / "bench"
FEWEST = 30  # rounds of a median


def goals(settings: Study, rounds: int) -> str:
    comparisons = steps.available(steps.GOALS + steps.PARTS)
    times = steps.measure(comparisons, settings, rounds)
    among = [c for c in comparisons if c.goal], [c for c in comparisons if not c.goal]
    tables = [as_table(steps.comparison_rows(some, times)) for some in among]
    if not peers.brevitas_layers():
        tables.append("Brevitas is not installed, so its rows are missing: run `make bench`, which installs it.")
    return "\n\n".join([*tables, as_table(steps.rate_rows(times, settings))])


def batches(settings: Study, rounds: int) -> str:
    return as_table(scaling.batch_rows(settings, rounds))


def images(settings: Study, rounds: int) -> str:
    return as_table(scaling.image_rows(settings, max(3, rounds // 10)))


def workers(settings: Study, rounds: int) -> str:
    return as_table(scaling.worker_rows(settings, max(3, rounds // 10)))


def operators(settings: Study, rounds: int) -> str:
    found = breakdown.profile_step(settings)
    breakdown.draw(found, FOLDER / "operators.png")
    return "```\n" + breakdown.as_text(found) + "\n```"


def scoring(settings: Study, rounds: int) -> str:
    return as_table(breakdown.scoring_rows(settings))


def onnx(settings: Study, rounds: int) -> str:
    return as_table(latency.rows(settings, rounds))


def explained(settings: Study, rounds: int) -> str:
    try:
        return as_table(explaining.rows(study.load(scale="full"), rounds))
    except DataError as error:
        return f"Nothing is measured: {error}"


def quantus(settings: Study, rounds: int) -> str:
    try:
        return as_table(quantus_check.rows(settings))
    except ImportError as error:
        return f"Nothing is compared: {error}. Run `make bench`, which installs Quantus."


def fewer(settings: Study, rounds: int) -> str:
    if not fewer_images.possible(settings):
        return "Nothing to read yet: `python -m study.run tasks` trains the networks."
    return as_table(fewer_images.rows(settings))


def handing_out(settings: Study, rounds: int) -> str:
    return as_table(dispatch.rows())


def levels(settings: Study, rounds: int) -> str:
    return as_table(machines.rows())


def pipeline(settings: Study, rounds: int) -> str:
    found = {command: stages.rows(folder) for command, folder in stages.RUNS.items()}
    tables = [f"`{command}`:\n\n{as_table(rows)}" for command, rows in found.items() if rows]
    return "\n\n".join(tables) or "Nothing to read yet: run `make quick` first."


PARTS: dict[str, tuple[str, Callable[[Study, int], str]]] = {
    "goals": ("Training steps, one thread, ratios of medians", goals),
    "batches": ("Batch size", batches),
    "images": ("Number of images", images),
    "workers": ("Worker processes", workers),
    "operators": ("One guided step by phase and operator, w4a4", operators),
    "scoring": ("Forward passes in scoring a network", scoring),
    "levels": ("What differs between levels of instructions", levels),
    "pipeline": ("Where the time of the last whole run went", pipeline),
    "tasks": ("Handing out a thousand jobs that compute nothing", handing_out),
    "explaining": ("What explaining in real time costs", explained),
    "quantus": ("Our scores beside those of Quantus and captum", quantus),
    "fewer": ("Intervals by fewer images and by all", fewer),
    "onnx": ("Exported networks in ONNX Runtime, one thread", onnx),
}


def as_table(rows: list[dict[str, str]]) -> str:
    """Rows as a Markdown table whose columns line up."""
    cells = [list(rows[0])] + [list(row.values()) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all when none is named: %(choices)s")
    parser.add_argument("--rounds", type=int, default=FEWEST, help="repetitions of each variant")
    options = parser.parse_args()
    processes.pin_cpu_level()  # as a stage runs; PyTorch chooses its code at its first operator
    one_thread()
    settings = study.load()
    for name in options.parts or PARTS:
        title, part = PARTS[name]
        text = f"## {title}\n\n{part(settings, options.rounds)}\n"
        print(text, flush=True)
        files.write(FOLDER / f"{name}.md", text)
    print(f"Written to {FOLDER.relative_to(paths.ROOT)}/")


if __name__ == "__main__":
    main()
