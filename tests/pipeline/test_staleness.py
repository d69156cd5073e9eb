"""A change makes stale what it can change, and nothing else: a table of changes, stage by stage, for the whole grid.

DVC says what is stale, on the real dvc.yaml. So that no network need be trained for that, the outputs of the stages are
files without meaning, and dvc.lock is written for them; what the stages depend on is real.
"""

import copy
import re
import shutil
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from saqlib import paths
from saqlib.pipeline import calls, run, study
from saqlib.training.seed import key

CELLS = [str(cell) for cell in study.load().grid.cells]
TWO_BITS = [cell for cell in CELLS if "-w2a2-" in cell]
GUIDED = [cell for cell in CELLS if cell.endswith("-guided")]
QUANTIZED = [cell for cell in CELLS if "-fp32-" not in cell]
COPIES = ("source@", "code@")


def each(stage: str, cells: list[str]) -> set[str]:
    return {f"{stage}@{cell}" for cell in cells}


TRAIN, CLARITY = each("train", CELLS), each("clarity", CELLS)
FILLS = {f"fills@{dataset}" for dataset in study.load().grid.datasets}
ABLATE = {f"ablate@{name}" for name in study.load().ablations}
TRAINED, SCORED = {*TRAIN, *ABLATE}, {*FILLS, *CLARITY, *ABLATE}
NUMBERS = {"data", *TRAINED, *SCORED, "deploy", "compare"}  # all stages that make numbers


def text(path: str, old: str, new: str) -> Callable[[Path], None]:
    """Replace something that stands in a file."""

    def change(folder: Path) -> None:
        before = (folder / path).read_text()
        assert old in before, f"{path} has no {old!r}"
        (folder / path).write_text(before.replace(old, new, 1))

    return change


def params(edit: Callable[[dict], object]) -> Callable[[Path], None]:
    """Change params.yaml."""

    def change(folder: Path) -> None:
        values = yaml.safe_load((folder / "params.yaml").read_text())
        edit(values)
        (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))

    return change


def new_precision(values: dict) -> None:
    values["precisions"]["w3a3"] = {
        **{layer: [3, 3] for layer in ("conv1", "conv2", "dense1", "dense2")}, "dense3": [3]
    }  # fmt: skip
    values["grid"]["precisions"].append("w3a3")


NEW_CELLS = sorted({re.sub("-.*-", "-w3a3-", cell) for cell in CELLS})
CLAIM = {"id": "B5", "group": "ours", "text": "Two bits cost coherence.", "test": "loss", "questions": ["coherence"],
         "precisions": ["w2a2"]}  # fmt: skip

# What is changed: the change, the copies that are made anew, the stages that are stale then, the cells whose seeds the
# store does not hold. The paper reads params.yaml as a whole: a compilation of seconds.
TABLE = {
    "a typo in a notebook's prose": (
        text("notebooks/02_train.ipynb", "How does a network", "How does any network"), {"source@02_train"}, set(), []),
    "a new output in a notebook": (
        text("notebooks/03_clarity.ipynb", '"execution_count": 1,', '"execution_count": 7,'),
        {"source@03_clarity"}, set(), []),
    "code in a notebook": (
        text("notebooks/03_clarity.ipynb", "round(3)", "round(4)"), {"source@03_clarity"}, CLARITY, []),
    "a comment in training code": (
        text("saqlib/training/looking.py", "CHUNK = 500", "# so many\nCHUNK = 500"), {"code@training"}, set(), []),
    "a docstring in training code": (
        text("saqlib/training/steps.py", "One step on the cross-entropy.", "A step."), {"code@training"}, set(), []),
    "training code": (
        text("saqlib/training/looking.py", "CHUNK = 500", "CHUNK = 250"), {"code@training"}, TRAINED, CELLS),
    "the message of a setting's error": (
        text("saqlib/training/settings.py", "must lie in [0, 1]", "must be a share"), {"code@training"}, TRAINED, []),
    "scoring code": (
        text("saqlib/clarity/scores.py", "i * (n - i)", "(n - i) * i"), {"code@clarity"}, {*SCORED, "compare"}, []),
    "an unused constant in paths": (text("saqlib/paths.py", "DATA = ", "OTHER = 1\nDATA = "), set(), set(), []),
    "where work is done": (
        text("saqlib/workers.py", "WORKER_BYTES = 1 << 30", "WORKER_BYTES = 1 << 31"),
        set(), set(), []),
    "which network trains which seeds": (
        text("saqlib/training/cell.py", "POLL_SECONDS = 0.5", "POLL_SECONDS = 0.6"), {"code@training"},
        {*TRAIN, *ABLATE}, []),
    "a new source address": (
        text("saqlib/download.py", "TIMEOUT = 10", 'ADDRESS = "elsewhere"\nTIMEOUT = 10'), set(), set(), []),
    "a pytest release": (text("locks/tools.lock", "pytest==", "pytest==99."), set(), set(), []),
    "a matplotlib release": (
        text("locks/report.lock", "matplotlib==", "matplotlib==99."), set(), {"data", "compare", "paper"}, []),
    "a numpy release": (text("locks/numerics.lock", "numpy==", "numpy==99."), set(), NUMBERS, []),
    "another plot colour": (
        text("saqlib/report/style.py", "#8a8a8a", "#8b8b8b"), {"code@report"}, {"data", "compare", "paper"}, []),
    "a verdict's rule": (
        text("saqlib/evidence/verdicts.py", "if p <= level", "if p < level"), {"code@evidence"}, {"data", "compare"},
        []),
    "a number of the first run": (
        text("saqlib/evidence/first_run/runs.csv", "99.28", "99.29"), {"code@evidence"}, {"data", "compare"}, []),
    "another word for a score": (
        text("saqlib/words.py", "Gini index", "Gini's index"), {"code@words"},
        {"data", *CLARITY, "deploy", "compare"}, []),
    "a new claim": (
        params(lambda values: values["claims"]["hypotheses"].append(CLAIM)), set(), {"compare", "paper"}, []),
    "guided.fraction": (
        params(lambda values: values["trainings"]["guided"].update(fraction=0.25)), set(),
        {*each("train", GUIDED), *ABLATE, "paper"}, GUIDED),
    "the weights of the edges": (
        params(lambda values: values["quantization"].update(edges="same")), set(), {*TRAINED, "paper"}, QUANTIZED),
    "the rate of the clips": (
        params(lambda values: values["quantization"].update(alpha_learning_rate=0.1)), set(),
        {*TRAINED, "paper"}, QUANTIZED),
    "steps of removal": (
        params(lambda values: values["clarity"].update(steps=7)), set(), {*SCORED, "paper"}, []),
    "scored images": (
        params(lambda values: values["scales"]["smoke"].update(images=61)), set(), {*SCORED, "paper"}, []),
    "one more seed": (
        params(lambda values: values["scales"]["smoke"].update(seeds=3)), set(),
        {*TRAINED, *SCORED, "compare", "paper"}, []),
    "a new precision": (
        params(new_precision), set(),
        {*each("train", NEW_CELLS), *each("clarity", NEW_CELLS), *ABLATE, "deploy", "compare", "paper"}, NEW_CELLS),
    "other bits of a precision": (
        params(lambda values: values["precisions"]["w2a2"].update(dense1=[3, 3])), set(),
        {*each("train", TWO_BITS), *ABLATE, "paper"}, TWO_BITS),
    "one more ablation": (
        params(lambda values: values["ablations"].update(longer=copy.deepcopy(values["ablations"]["twenty_epochs"]))),
        set(),
        {"ablate@longer", "compare", "paper"}, []),
}  # fmt: skip


@pytest.fixture(scope="module")
def settled(tmp_path_factory):
    """A workspace with the whole grid in which DVC takes every stage for done, and the store's keys of its cells."""
    folder = run.workspace(tmp_path_factory.mktemp("staleness") / "settled", "smoke")
    with environment_of(folder), Repo(str(folder)) as repo:
        repo.reproduce(targets=["source", "code"])
        for stage in repo.index.stages:
            for out in stage.outs:
                path = Path(out.fs_path)
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(stage.addressing)
        repo.commit(force=True)
    assert stale(folder) == (set(), set())
    return folder, keys(folder)


class environment_of(chdir):
    """The folder as the working directory, and the variables under which its stages run."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.patch = pytest.MonkeyPatch()
        self.variables = calls.environment(folder)

    def __enter__(self):
        for name, value in self.variables.items():
            self.patch.setenv(name, value)
        super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.patch.undo()


def stale(folder: Path) -> tuple[set[str], set[str]]:
    """The copies that are made anew, and the stages that DVC would run then, because of what they depend on."""
    with environment_of(folder), Repo(str(folder)) as repo:
        names = {stage.addressing: stage for stage in repo.index.stages}
        copies = {name for name, stage in names.items() if name.startswith(COPIES) and changed(stage)}
        if copies:
            repo.reproduce(targets=sorted(copies), single_item=True)
        others = {name for name in names if not name.startswith((*COPIES, "notebooks"))}
        return copies, {name for name in others if changed(names[name])}


def changed(stage) -> bool:
    """Whether DVC finds a dependency of the stage other than it was."""
    return any(dep.status() for dep in stage.deps)


def keys(folder: Path) -> dict[str, str]:
    """The store's key of the trained seeds of every cell, by the code and the numbers of this folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "ROOT", folder)
        patch.setattr(paths, "SAMPLE", folder / "tests" / "sample")
        settings = study.load(folder / "params.yaml")
        return {str(cell): key(settings.recipe(cell), "cpu") for cell in settings.grid.cells}


@pytest.mark.parametrize("what", TABLE)
def test_a_change_makes_stale_what_it_can_change(settled, tmp_path, what):
    """Exactly the copies, the stages and the seeds of the table."""
    folder, before = settled
    change, copies, stages, seeds = TABLE[what]
    copy = shutil.copytree(folder, tmp_path / "copy", symlinks=True)
    change(copy)
    assert stale(copy) == (copies, stages)
    if seeds is not None:
        after = keys(copy)
        assert {cell for cell in after if after[cell] != before.get(cell)} == set(seeds)


def test_every_stage_is_in_the_table():
    """Each kind of stage but the copies is made stale by something."""
    found = {re.sub("@.*", "", name) for _, _, stages, _ in TABLE.values() for name in stages}
    assert found == {"data", "train", "fills", "clarity", "ablate", "deploy", "compare", "paper"}
