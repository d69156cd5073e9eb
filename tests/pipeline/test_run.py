"""The pipeline: its stages are complete and narrow, it starts anywhere, and two runs give the same bytes."""

import ast
import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
import yaml
from dvc.repo import Repo

from saqlib import config, paths, pipeline

TINY = {
    "grid": {"datasets": ["mnist"], "precisions": ["fp32", "w2a2"], "trainings": ["standard"]},
    "scales": {
        "smoke": {"epochs": {"mnist": 2}, "warmup_epochs": 1, "images": 20, "images_dear": 4, "images_deployed": 20}
    },
}
RUN = re.compile(r"python -m saqlib\.notebooks run (\w+) (\S+)(.*)")


@pytest.fixture(scope="module")
def stages():
    """Every stage of dvc.yaml with its matrix written out, by its name."""
    with Repo(paths.ROOT) as repo:
        return {stage.addressing: stage for stage in repo.index.stages}


def runs(stages) -> list[tuple]:
    """(stage, name of its notebook, output, parameters) of each stage that runs a notebook."""
    found = [(stage, RUN.match(stage.cmd)) for stage in stages.values()]
    return [
        (stage, match[1], match[2], dict(re.findall(r"-p (\S+) (\S+)", match[3]))) for stage, match in found if match
    ]


def cells_of(name: str) -> list[nbformat.NotebookNode]:
    return nbformat.read(paths.NOTEBOOKS / f"{name}.ipynb", as_version=4).cells


# ---------------------------------------------------------------------------------------------- what is declared


def test_a_stage_is_named_after_its_cell(stages):
    """Each cell of the grid is one stage of training and one of clarity, under the cell's own name."""
    cells = [str(cell) for cell in config.load().grid.cells]
    for stage in ("train", "clarity"):
        assert {f"{stage}@{cell}" for cell in cells} == {name for name in stages if name.startswith(f"{stage}@")}


def test_names_can_be_taken_apart():
    """No name of an axis holds what separates names in DVC or in a path, and none reads as a number."""
    settings = config.load()
    for name in (*settings.grid.datasets, *settings.precisions, *settings.grid.trainings):
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)


def test_every_notebook_but_explore_is_a_stage(stages):
    """The numbered notebooks are the stages, and each has a source-only copy."""
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


def test_stages_depend_on_the_source_only_copy_and_on_the_lock(stages):
    """The copy in build/, never the notebook itself, whose outputs change by hand."""
    for stage, name, output, _ in runs(stages):
        deps, outs = ({str(file) for file in files} for files in (stage.deps, stage.outs))
        assert {f"build/notebooks/{name}.ipynb", "requirements.lock"} <= deps, stage.addressing
        assert output in outs and not any(dep.startswith("notebooks/") for dep in deps), stage.addressing


def imports(code: str) -> set[str]:
    """The modules of saqlib that a piece of code imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module == "saqlib":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("saqlib."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("saqlib.")}
    return found


def all_imports(code: str) -> set[str]:
    """The same, and what those modules import in their turn."""
    found, queue = set(), imports(code)
    while queue:
        module = queue.pop()
        found.add(module)
        queue |= imports((paths.ROOT / "saqlib" / f"{module}.py").read_text()) - found
    return found


def files_of(modules: set[str]) -> set[str]:
    """The files of these modules, and those beside them that one of them names, such as a style sheet."""
    folder = paths.ROOT / "saqlib"
    sources = {f"saqlib/{module}.py": (folder / f"{module}.py").read_text() for module in modules}
    others = [path.name for path in folder.iterdir() if path.is_file() and path.suffix != ".py"]
    return set(sources) | {f"saqlib/{name}" for name in others if any(name in text for text in sources.values())}


def test_stages_depend_on_exactly_the_modules_that_they_import(stages):
    """A missing module would leave results stale; a superfluous one would train again for nothing."""
    assert not imports((paths.ROOT / "saqlib" / "__init__.py").read_text())
    needed = {
        stage: files_of(all_imports("\n".join(cell.source for cell in cells_of(name) if cell.cell_type == "code")))
        for stage, name, _, _ in runs(stages)
    }
    runner = all_imports("import saqlib.notebooks")
    needed |= {stage: files_of(runner) for name, stage in stages.items() if name.startswith("source@")}
    needed[stages["paper"]] = files_of(all_imports("import saqlib.paper"))
    for stage, files in needed.items():
        assert {str(dep) for dep in stage.deps if str(dep).startswith("saqlib/")} == files, stage.addressing


def test_the_run_cache_stays_on_where_it_matters(stages):
    """A plain output without cache would switch it off: going back to earlier numbers would train again."""
    for name, stage in stages.items():
        if name.startswith(("train@", "clarity@")):
            plain = [out for out in stage.outs if not (out.is_metric or out.is_plot)]
            assert plain and all(out.use_cache for out in plain), name


# ---------------------------------------------------------------------------------------------- a run, and another


def start(folder: Path, module: str, *arguments: str) -> subprocess.Popen:
    """A command in a workspace, on the saqlib of that workspace; what it prints is kept in a file."""
    with (folder / "log").open("w") as log:
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.Popen(command, cwd=folder, env=pipeline.environment(folder), stdout=log, stderr=log)


def finish(folder: Path, process: subprocess.Popen) -> str:
    """What the command printed; it has to succeed."""
    status = process.wait()
    log = (folder / "log").read_text()
    assert status == 0, log
    return log


def dvc(folder: Path, *arguments: str) -> str:
    return finish(folder, start(folder, "dvc", *arguments))


def kill(process: subprocess.Popen) -> None:
    """All at once, as when the power fails: DVC, papermill, the kernel and its workers."""
    for each in [*psutil.Process(process.pid).children(recursive=True), process]:
        each.kill()
    process.wait()


def wait_for(condition, process: subprocess.Popen, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end, "it never came to the middle of a cell"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def workspaces(tmp_path_factory):
    """Two runs of a tiny grid side by side: one undisturbed, one killed in the middle of a cell and taken up again.

    The first is DVC alone, the second goes on by `make reproduce`'s command, which works on two cells at a time.
    """
    before = digests(paths.ROOT / "results") | digests(paths.NOTEBOOKS)
    base = tmp_path_factory.mktemp("pipeline")
    calm = pipeline.workspace(base / "a folder", "smoke", **TINY)
    killed = pipeline.workspace(base / "killed", "smoke", **TINY)
    undisturbed, process = start(calm, "dvc", "repro"), start(killed, "dvc", "repro")
    try:
        seeds = killed / "build" / "seeds"
        wait_for(lambda: list(seeds.glob("mnist-w2a2-standard-*/0.*")), process)
        kill(process)
        assert not (killed / "models" / "mnist-w2a2-standard.pt").exists()
        log = finish(killed, start(killed, "saqlib.pipeline", "reproduce"))
        finish(calm, undisturbed)
    finally:
        for one in (undisturbed, process):
            if one.poll() is None:
                kill(one)
    assert digests(paths.ROOT / "results") | digests(paths.NOTEBOOKS) == before, "the checkout was written to"
    return calm, killed, log


@pytest.fixture(scope="module")
def calm(workspaces):
    """A finished workspace in a folder with a space and without git; whoever changes it puts it back."""
    return workspaces[0]


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_runs_without_git_in_a_folder_with_a_space(calm):
    """An unpacked archive is enough: every stage ran, and DVC has nothing left to do."""
    assert " " in calm.name and not (calm / ".git").exists()
    assert "Data and pipelines are up to date." in dvc(calm, "repro", "--dry")


def test_two_runs_give_the_same_bytes(workspaces):
    """Everything under results/ and the paper are the same in two folders, executed notebooks included."""
    calm, killed, _ = workspaces
    results = digests(calm / "results")
    assert {"runs/mnist-w2a2-standard.json", "notebooks/02_train-mnist-w2a2-standard.ipynb"} <= results.keys()
    assert results == digests(killed / "results")
    assert (calm / "paper" / "paper.pdf").read_bytes() == (killed / "paper" / "paper.pdf").read_bytes()


def test_results_do_not_name_the_machine(calm):
    """No file that is committed holds the folder that it was made in."""
    for path in (calm / "results").rglob("*"):
        if path.is_file():
            assert str(calm).encode() not in path.read_bytes(), path.name


def test_goes_on_after_a_kill(workspaces):
    """The second call of a killed run skips the finished cell and runs the interrupted one."""
    _, killed, log = workspaces
    assert "Stage 'train@mnist-fp32-standard' didn't change, skipping" in log
    assert "Running stage 'train@mnist-w2a2-standard'" in log
    assert not list((killed / "build" / "seeds").glob("*/*.pt"))


# ------------------------------------------------------------------------------------------------- what runs again


@pytest.fixture
def copy(calm, tmp_path):
    """A finished workspace to change at will."""
    return shutil.copytree(calm, tmp_path / "copy", symlinks=True)


def stale(folder: Path) -> set[str]:
    """The stages that DVC would run, because of what they depend on."""
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    done = subprocess.run(command, cwd=folder, env=pipeline.environment(folder), capture_output=True, text=True)
    changes = json.loads(done.stdout)
    return {name for name, what in changes.items() if any("changed outs" not in change for change in what)}


def edit_params(folder: Path, edit) -> None:
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text())
    edit(params)
    path.write_text(yaml.safe_dump(params, sort_keys=False))


def test_new_outputs_in_a_notebook_run_nothing_again(copy):
    """Only the copy is made anew, and as it is the same, DVC skips what follows; new source does not get skipped."""
    path = copy / "notebooks" / "02_train.ipynb"
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], 99
    nbformat.write(notebook, path)
    log = dvc(copy, "repro")
    assert re.findall("Running stage '(.*)'", log) == ["source@02_train"]
    notebook.cells[-1].source += "\n# changed"
    nbformat.write(notebook, path)
    dvc(copy, "repro", "source@02_train")
    assert stale(copy) == {"train@mnist-fp32-standard", "train@mnist-w2a2-standard"}


def test_check_needs_no_models_and_names_what_is_stale(copy):
    """As in a fresh clone, where git has results/ alone; after one changed line it says which stage would run."""
    for name in ("models", "scores", "data", "build"):
        shutil.rmtree(copy / name)
    for name in ("cache", "tmp"):
        shutil.rmtree(copy / ".dvc" / name)
    before = digests(copy)
    assert pipeline.check(copy) == "Data and pipelines are up to date."
    assert {name for name in digests(copy) if not name.startswith(".dvc/tmp")} == set(before)
    with (copy / "saqlib" / "claims.py").open("a") as file:
        file.write("# changed\n")
    with pytest.raises(pipeline.PipelineError, match="run `make reproduce`. DVC would begin with compare.$"):
        pipeline.check(copy)


def test_a_new_precision_runs_only_its_cells(copy):
    """The cells that are there do not read the grid, only their own row of `precisions`."""
    edit_params(copy, lambda params: params["grid"]["precisions"].insert(0, "w4a4"))
    cells = {name for name in stale(copy) if name.startswith(("train@", "clarity@", "data", "source@"))}
    assert cells == {"train@mnist-w4a4-standard", "clarity@mnist-w4a4-standard"}


def test_a_changed_precision_runs_only_its_cells(copy):
    """Other bits in the row w2a2 leave fp32 alone."""
    edit_params(copy, lambda params: params["precisions"]["w2a2"].update(dense1=[3, 3]))
    assert {name for name in stale(copy) if name.startswith("train@")} == {"train@mnist-w2a2-standard"}


def test_what_clarity_reads_trains_nothing_again(copy):
    """The number of scored images and the settings of the scores belong to clarity alone."""

    def edit(params):
        params["scales"]["smoke"]["images"] += 1
        params["clarity"]["steps"] += 1

    edit_params(copy, edit)
    cells = {name for name in stale(copy) if name.startswith(("train@", "clarity@"))}
    assert cells == {"clarity@mnist-fp32-standard", "clarity@mnist-w2a2-standard"}


def test_another_scale_is_another_run(copy):
    """Smoke networks are never taken for those of the paper."""
    edit_params(copy, lambda params: params.update(scale="quick"))
    assert {"train@mnist-fp32-standard", "train@mnist-w2a2-standard", "data"} <= stale(copy)


# ---------------------------------------------------------------------------------------------- the command line


def test_unusable_params_stop_before_anything_is_removed(tmp_path):
    """One sentence that names the nearest valid value; DVC, which removes outputs before a run, never starts."""
    folder = pipeline.workspace(tmp_path / "w", "smoke", **TINY)
    edit_params(folder, lambda params: params["grid"].update(precisions=["w2a3"]))
    before = digests(folder)
    with pytest.raises(config.ConfigError, match="unknown precision in grid.precisions 'w2a3'; did you mean 'w2a2'"):
        pipeline.repro(folder)
    assert digests(folder) == before


def test_unusable_edits_write_nothing(tmp_path):
    """A scratch folder with a grid that is empty is not even begun."""
    with pytest.raises(config.ConfigError, match="grid.trainings is empty"):
        pipeline.workspace(tmp_path / "w", "smoke", grid={"trainings": []})
    assert not (tmp_path / "w").exists()


def test_a_workspace_changes_only_what_it_is_told(tmp_path):
    """The numbers of params.yaml, scale and edits apart, are those of the checkout."""
    folder = pipeline.workspace(tmp_path / "w", "smoke", guided={"fraction": 0.25})
    ours, theirs = (yaml.safe_load((root / "params.yaml").read_text()) for root in (paths.ROOT, folder))
    assert theirs["scale"] == "smoke" and theirs["guided"].pop("fraction") == 0.25
    ours["guided"].pop("fraction")
    assert ours | {"scale": "smoke"} == theirs


def test_a_failed_stage_ends_in_one_sentence_and_exit_code_1(tmp_path, monkeypatch, capfd):
    """The stage has said what was wrong; the command says that it can be repeated."""
    folder = pipeline.workspace(tmp_path / "w", "smoke", **TINY)
    failing = {"source": {"cmd": "python --version"}, "data": {"cmd": "python -c 'raise SystemExit(3)'"}}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": failing}))
    monkeypatch.setattr(paths, "ROOT", folder)
    with pytest.raises(SystemExit) as stop:
        pipeline.main(["reproduce"])
    assert stop.value.code == pipeline.STOPPED
    assert "failed to reproduce 'data'" in capfd.readouterr().err


def test_lanes_share_cells_of_both_trainings():
    """Each cell once, and half of the dear ones in each lane."""
    names = [f"train@{cell}" for cell in config.load().grid.cells]
    lanes = pipeline._lanes(names)
    assert sorted(name for lane in lanes for name in lane) == sorted(names)
    assert [sum("guided" in name for name in lane) for lane in lanes] == [4, 4]
    assert pipeline._lanes(names[:1]) == [names[:1]]


def test_stages_run_in_this_environment(tmp_path):
    """`python` in a stage is the interpreter that runs the pipeline, and saqlib the copy in the workspace."""
    folder = pipeline.workspace(tmp_path / "w", "smoke", **TINY)
    probe = "python -c 'import sys, saqlib; print(sys.prefix, saqlib.__file__, sep=chr(10))'"
    environment = pipeline.environment(folder)
    done = subprocess.run(probe, shell=True, check=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == [sys.prefix, str(folder / "saqlib" / "__init__.py")]
