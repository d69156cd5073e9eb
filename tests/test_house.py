"""The house: rooms in one direction, small modules, and words that need nothing heavy."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest

from saqlib import codebase, paths

# What each room may import, from the ground up: a room stands below all that name it. An arrow that is not here is
# refused, and so is one that points up.
ARROWS = {
    "paths": "",
    "errors": "",
    "names": "",
    "datasets": "",
    "files": "",
    "processes": "",
    "params": "errors paths",
    "grid": "datasets params",
    "words": "names",
    "workers": "params processes",
    "codebase": "paths",
    "store": "codebase files paths",
    "data": "datasets errors params paths",
    "download": "data datasets errors files params paths processes",
    "kernels": "errors paths",
    "network": "errors kernels params",
    "stored": "errors files grid network paths",
    "saliency": "errors",
    "training": "data errors files grid network params paths saliency store stored workers",
    "clarity": "data files grid names network params paths saliency store stored workers",
    "evidence": "errors files grid names params paths words",
    "deployment": "data errors files grid names network saliency store stored words",
    "report": "errors evidence files names params paths words",
    "pipeline": "clarity codebase data datasets deployment download errors evidence files grid kernels names network "
    "params paths processes report store stored training words workers",
    "explore": "clarity data datasets deployment grid network params paths pipeline report saliency training words",
    "site": "data errors evidence files names paths pipeline report words",
}
LONGEST_MODULE, LONGEST_FUNCTION = 300, 60  # lines; a function with its docstring, a screen


def modules() -> dict[str, str]:
    """Every module of saqlib with its text."""
    return {module: codebase.file_of(module).read_text(encoding="utf-8") for module in codebase.modules()}


def test_rooms_import_only_what_stands_below_them():
    """Every arrow between rooms is one of ARROWS, and every arrow of ARROWS is there."""
    found: dict[str, set[str]] = {codebase.room(module): set() for module in codebase.modules()}
    for module, text in modules().items():
        found[codebase.room(module)] |= {codebase.room(other) for other in codebase.imported(text)}
    found = {room: others - {room} for room, others in found.items()}
    assert found == {room: set(below.split()) for room, below in ARROWS.items()}


def test_arrows_go_one_way():
    """In the order of ARROWS each room imports rooms that stand before it: no arrow points up, no circle."""
    order = list(ARROWS)
    for room, below in ARROWS.items():
        assert all(order.index(other) < order.index(room) for other in below.split()), room


def test_no_circle_between_modules():
    """Within a room, too, modules import in one direction."""
    # One that travels to a worker by value names itself there.
    graph = {module: codebase.imported(text) - {module} for module, text in modules().items()}
    assert set(TopologicalSorter(graph).static_order()) == set(graph)


def test_modules_are_short():
    """No module is longer than one reads in ten minutes."""
    long = {module: len(text.splitlines()) for module, text in modules().items()}
    assert {module: lines for module, lines in long.items() if lines > LONGEST_MODULE} == {}


def test_functions_fit_on_a_screen():
    """No function is longer than a screen, its docstring included."""
    long = {
        f"{module}.{node.name}": node.end_lineno - node.lineno + 1
        for module, text in modules().items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    assert {name: lines for name, lines in long.items() if lines > LONGEST_FUNCTION} == {}


def test_a_face_holds_names_alone():
    """The __init__ of a room has a docstring, and attaches names to modules without importing them."""
    for folder in (paths.ROOT / "saqlib").iterdir():
        if folder.is_dir() and (folder / "__init__.py").exists():
            body = ast.parse((folder / "__init__.py").read_text()).body
            assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder.name
            assert all(isinstance(node, (ast.Expr, ast.Import, ast.Assign)) for node in body), folder.name


def test_tests_mirror_the_house():
    """A module is tested where its name says: tests/clarity/test_removal.py for saqlib/clarity/removal.py."""
    by_their_users = {"paths", "names", "datasets", "report.panels", "saliency.settings", "pipeline.by_hand",
                      "pipeline.kinds", "pipeline.tasks", "training.records", "clarity.fill_gains"}  # fmt: skip
    expected = {module for module in codebase.modules() if module not in by_their_users}
    tests = paths.ROOT / "tests"
    files = [path.relative_to(tests).with_suffix("") for path in tests.rglob("test_*.py")]
    assert expected - {".".join(path.parts).replace("test_", "") for path in files} == set()


# ------------------------------------------------------------------------------------------- who needs what

HEAVY = ("torch", "captum", "onnx", "onnxruntime")
LIGHT = ("names", "words", "grid", "params", "datasets", "evidence.settings", "evidence.statistics", "evidence.reading",
         "evidence.image_sets", "evidence.runs", "evidence.per_seed", "evidence.rules", "evidence.verdicts",
         "evidence.claims", "evidence.by_fill", "evidence.robustness", "evidence.other_methods", "evidence.first_run",
         "evidence.retained", "evidence.kept_maps", "report.tables", "report.verdict_tables",
         "report.verify", "report.sentences", "pipeline.study")  # fmt: skip


@pytest.mark.parametrize(
    ("imported", "refused"),
    [
        (LIGHT, HEAVY),
        (("data.images",), ("saqlib.download", "torchvision", "captum")),
        (("stored",), ("saqlib.training", "saqlib.clarity", "captum", "scipy", "onnx")),
        (("training.seed", "training.cell"), ("captum", "onnx", "scipy", "saqlib.clarity", "saqlib.evidence")),
        (("clarity.seed", "clarity.cell"), ("captum", "onnx", "saqlib.training", "saqlib.evidence")),
        (("site.findings", "site.front", "site.lines", "site.notebooks", "site.paper"), HEAVY),
        (("explore.networks", "explore.desk"), (*HEAVY[:3], "pandas", "scipy")),
        (("deployment.explain",), ("torch", "captum", "scipy", "pandas")),
        (("pipeline.run",), ("captum", "onnx", "saqlib.training.cell", "saqlib.clarity.cell")),
        (("pipeline.panel",), HEAVY),
    ],
    ids=lambda names: names[0],
)
def test_nothing_imports_what_it_does_not_need(imported, refused):
    """In a fresh interpreter, one import after the other: none of the refused modules has been loaded."""
    script = "import sys\n" + "".join(
        f"import saqlib.{module}\nbad = [name for name in {refused} if name in sys.modules]\n"
        f"assert not bad, 'saqlib.{module} imports ' + ', '.join(bad)\n"
        for module in imported
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=paths.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr.splitlines()[-1]


# -------------------------------------------------------------------------------------------- commands and text


def test_every_command_tells_what_goes_wrong_in_one_line():
    """Each module that is run as a command does its work inside `told`: full disks, signals and all errors expected."""
    for module, text in modules().items():
        if '__name__ == "__main__"' in text:
            assert "with told(" in text, module


TEXT = re.compile(r"\.(read_text|write_text)\((?P<given>[^()]*(?:\([^()]*\)[^()]*)*)\)")


def test_text_is_utf8_whatever_the_locale():
    """Nothing is read or written in an encoding that the machine chooses."""
    for module, text in modules().items():
        for call in TEXT.finditer(text):
            assert 'encoding="utf-8"' in call["given"], f"{module}: {call[0]}"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "open":
                words = [each.arg for each in node.keywords]
                mode = next((each.value for each in node.args[1:2] if isinstance(each, ast.Constant)), "")
                library = isinstance(node.func, ast.Attribute)  # of pictures, archives and files of the system
                assert "b" in str(mode) or "encoding" in words or library, f"{module}, line {node.lineno}"
