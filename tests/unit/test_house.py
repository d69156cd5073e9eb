"""The house: the method knows nothing of the paper, modules import in one direction, and stay small enough to read."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest

from study import paths

LONGEST_MODULE, LONGEST_FUNCTION = 470, 60  # lines; a function with its docstring, a screen
MOST_MODULES, MOST_LINES = 34, 7000  # of saqlib; C is apart
# Everyday words that say no type and no purpose; the field has a word for each.
VAGUE = {"told", "said", "kept", "alone", "few", "brief", "marks", "noted", "begun", "asked"}


def files(package: str) -> dict[str, str]:
    """Every module of a package, such as `study.report.tables`, with its text."""
    found = {}
    for path in sorted((paths.ROOT / package).rglob("*.py")):
        parts = path.relative_to(paths.ROOT).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path.read_text(encoding="utf-8")
    return found


METHOD, PAPER = files("saqlib"), files("study")
ALL = METHOD | PAPER


def imports(module: str) -> set[str]:
    """The modules of ours that a module imports, also inside functions; a package stands for itself."""
    found = set()
    for node in ast.walk(ast.parse(ALL[module])):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in ALL else node.module
                      for alias in node.names}  # fmt: skip
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & ALL.keys() - {module}


def test_the_method_does_not_know_the_paper():
    """saqlib imports nothing of study, and none of what the paper's machinery is made of."""
    for module in METHOD:
        assert not {name for name in imports(module) if name.startswith("study")}, module
        for word in ("params.yaml", "argparse", "joblib", "dvc"):
            assert word not in METHOD[module] or module == "saqlib.deploy.explain", f"{module}: {word}"


def test_modules_import_in_one_direction():
    """No circle, also not through imports inside functions."""
    graph = {module: imports(module) for module in ALL}
    assert set(TopologicalSorter(graph).static_order()) == set(graph)


def test_the_method_is_small():
    """Few modules and few lines, so that somebody reads it."""
    assert len(METHOD) <= MOST_MODULES
    assert sum(len(text.splitlines()) for text in METHOD.values()) <= MOST_LINES


@pytest.mark.parametrize("module", ALL)
def test_a_module_is_read_in_ten_minutes(module):
    """It is short, no function is longer than a screen, it says what it is, and so does each public function."""
    text = ALL[module]
    assert len(text.splitlines()) <= LONGEST_MODULE
    tree = ast.parse(text)
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    assert [node.name for node in functions if node.end_lineno - node.lineno >= LONGEST_FUNCTION] == []
    assert ast.get_docstring(tree)
    public = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_"]
    assert [node.name for node in public if not ast.get_docstring(node)] == []


@pytest.mark.parametrize("module", ALL)
def test_names_are_the_fields(module):
    """No module, function, class or argument is called by an everyday word that says nothing."""
    tree = ast.parse(ALL[module])
    names = {module.split(".")[-1]} | {node.name for node in ast.walk(tree) if hasattr(node, "name")}
    names |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    assert not names & VAGUE


# ------------------------------------------------------------------------------------------- who needs what

HEAVY = ("torch", "captum", "onnx", "onnxruntime")


@pytest.mark.parametrize(
    ("imported", "refused"),
    [
        (("saqlib.claims", "saqlib.statistics", "study.settings", "study.report.tables", "study.run", "study.tasks",
          "study.verify", "study.models", "study.frames"), HEAVY),
        (("saqlib.deploy.explain",), ("torch", "captum", "scipy", "pandas", "pydantic", "study")),
        (("saqlib.training", "saqlib.scoring"), ("captum", "onnx", "scipy", "pandas", "study")),
        (("study.explore",), ("torch", "captum", "pandas", "scipy")),
        (("study.live",), HEAVY),
    ],
    ids=lambda names: names[0],
)  # fmt: skip
def test_nothing_imports_what_it_does_not_need(imported, refused):
    """In a fresh interpreter, one import after the other: none of the refused modules has been loaded."""
    script = "import sys\n" + "".join(
        f"import {module}\nbad = [name for name in {refused} if name in sys.modules]\n"
        f"assert not bad, '{module} imports ' + ', '.join(bad)\n"
        for module in imported
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=paths.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr.splitlines()[-1]


# -------------------------------------------------------------------------------------------- commands and text


def test_every_command_ends_in_one_line_where_something_is_wrong():
    """What is run as a command works inside `exit_with_message`: full disks, signals, our errors."""
    for module, text in ALL.items():
        if '__name__ == "__main__"' in text:
            assert "with exit_with_message(" in text, module


TEXT = re.compile(r"\.(read_text|write_text)\((?P<given>[^()]*(?:\([^()]*\)[^()]*)*)\)")


@pytest.mark.parametrize("module", ALL)
def test_text_is_utf8_whatever_the_locale(module):
    """Nothing is read or written in an encoding that the machine chooses."""
    for call in TEXT.finditer(ALL[module]):
        assert 'encoding="utf-8"' in call["given"], call[0]
