"""dvc.yaml: its stages are complete and narrow, and pass names that their notebooks declare."""

import ast
import re

import nbformat
import yaml

from saqlib import codebase, paths
from saqlib.pipeline import study

RUN = re.compile(r"python -m saqlib\.pipeline\.notebooks run (\w+) (\S+)(.*)")


def runs(stages) -> list[tuple]:
    """(stage, name of its notebook, output, parameters) of each stage that runs a notebook."""
    found = [(stage, RUN.match(stage.cmd)) for stage in stages.values()]
    return [
        (stage, match[1], match[2], dict(re.findall(r"-p (\S+) (\S+)", match[3]))) for stage, match in found if match
    ]


def cells_of(name: str) -> list[nbformat.NotebookNode]:
    return nbformat.read(paths.NOTEBOOKS / f"{name}.ipynb", as_version=4).cells


def code_of(name: str) -> str:
    return "\n".join(cell.source for cell in cells_of(name) if cell.cell_type == "code")


def dependencies(stage) -> set[str]:
    return {str(dep) for dep in stage.deps}


def test_a_stage_is_named_after_its_cell(stages):
    """Each cell of the grid is one stage of training and one of clarity, under the cell's own name."""
    cells = [str(cell) for cell in study.load().grid.cells]
    for stage in ("train", "clarity"):
        assert {f"{stage}@{cell}" for cell in cells} == {name for name in stages if name.startswith(f"{stage}@")}


def test_names_can_be_taken_apart():
    """No name of an axis holds what separates names in DVC or in a path, and none reads as a number."""
    settings = study.load()
    for name in (*settings.grid.datasets, *settings.precisions, *settings.grid.trainings):
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)


def test_every_numbered_notebook_is_a_stage(stages):
    """The numbered notebooks are the stages, and each has a copy of its code."""
    numbered = {path.stem for path in paths.NOTEBOOKS.glob("0*.ipynb")}
    assert {name for _, name, _, _ in runs(stages)} == numbered
    assert {name.removeprefix("source@") for name in stages if name.startswith("source@")} == numbered


def test_stages_pass_names_that_their_notebook_declares(stages):
    """Every -p of dvc.yaml is assigned in the cell of parameters, and its value is a name, not a number."""
    for stage, name, _, parameters in runs(stages):
        (cell,) = [cell for cell in cells_of(name) if "parameters" in cell.metadata.get("tags", [])]
        declared = {target.id for node in ast.parse(cell.source).body for target in node.targets}
        assert parameters.keys() <= declared, stage.addressing
        assert all(re.fullmatch(r"[a-z.][a-z0-9_]*", value) for value in parameters.values()), stage.addressing
        assert parameters["output"] == ".", stage.addressing


def test_stages_depend_on_copies_of_code_and_on_the_numerics(stages):
    """Never on a notebook or a module itself, whose words change by hand, and never on the lock of the tools."""
    for stage, name, output, _ in runs(stages):
        deps = dependencies(stage)
        assert {f"build/code/{name}.ipynb", "locks/numerics.lock"} <= deps, stage.addressing
        assert output in {str(out) for out in stage.outs} and output.startswith("build/executed/")
        assert not any(dep.startswith(("notebooks/", "saqlib/", "locks/tools")) for dep in deps), stage.addressing


def test_stages_depend_on_exactly_the_rooms_that_they_import(stages):
    """A missing room would leave results stale; a superfluous one would make them stale for nothing."""
    needed = {stage: codebase.imported(code_of(name)) for stage, name, _, _ in runs(stages)}
    needed[stages["paper"]] = {"report.paper"}
    needed |= {stages[name]: {"clarity.qualifying"} for name in stages if name.startswith("fills@")}
    for stage, modules in needed.items():
        rooms = {codebase.room(module) for module in codebase.needed(modules)}
        copies = {re.fullmatch(r"build/code/(.*)\.py", dep) for dep in dependencies(stage)}
        assert {copy[1] for copy in copies if copy} == rooms, stage.addressing


def test_fills_are_decided_before_a_test_image_is_scored(stages):
    """Every stage that scores test images waits for the decision on its dataset, and the decision knows no score."""
    for name, stage in stages.items():
        if name.startswith("clarity@"):
            dataset = name.removeprefix("clarity@").split("-")[0]
            assert f"results/fills/{dataset}.csv" in dependencies(stage), name
    decisions = [stages[f"fills@{dataset}"] for dataset in study.load().grid.datasets]
    assert not any(dep.startswith(("scores", "results")) for stage in decisions for dep in dependencies(stage))


def test_every_room_that_a_stage_needs_has_its_copy(stages):
    """A copy for each room but infrastructure, made from the room's own folder or file."""
    copies = {name.removeprefix("code@"): stage for name, stage in stages.items() if name.startswith("code@")}
    needed = {codebase.room(module) for module in codebase.modules()} - set(codebase.INFRASTRUCTURE)
    assert set(copies) == needed
    for name, stage in copies.items():
        folder = (paths.ROOT / "saqlib" / name).is_dir()
        assert dependencies(stage) == {f"saqlib/{name}" if folder else f"saqlib/{name}.py"}


def test_figures_depend_on_what_draws_them(stages):
    """A release of matplotlib changes figures: the stages that write some, and the paper, depend on its lock."""
    drawing = {name for name, stage in stages.items() if "locks/report.lock" in dependencies(stage)}
    writing = {name for name, stage in stages.items() if any("results/figures" in str(out) for out in stage.outs)}
    assert drawing == writing | {"paper"}


def test_the_run_cache_stays_on_where_it_matters(stages):
    """A plain output without cache would switch it off: going back to earlier numbers would train again."""
    for name, stage in stages.items():
        if name.startswith(("train@", "clarity@")):
            plain = [out for out in stage.outs if not (out.is_metric or out.is_plot)]
            assert plain and all(out.use_cache for out in plain), name


def test_stages_name_parameters_that_are_there(stages):
    """Each parameter of a stage is a key of params.yaml: a mistyped one would never change."""
    values = yaml.safe_load(paths.PARAMS.read_text())
    for stage in stages.values():
        for dep in stage.deps:
            for key in getattr(dep, "params", None) or ():
                there = values
                for part in key.split("."):
                    assert part in there, f"{stage.addressing}: {key}"
                    there = there[part]
