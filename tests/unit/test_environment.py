"""What is declared, used and locked, and who installs from the locks."""

import ast
import functools
import json
import re
import runpy
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import jupyterlab
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from study.paths import ROOT
from study.store import NUMERICS

CONFIGURED = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = CONFIGURED["project"]
EXTRAS = PROJECT["optional-dependencies"]
STUDY = PROJECT["dependencies"] + EXTRAS["study"]  # what everybody installs who runs the pipeline
LOCKS = {path.stem: path.read_text() for path in sorted((ROOT / "locks").glob("*.lock"))}
PINS = {
    lock: {canonicalize_name(pin.name): pin for pin in map(Requirement, re.findall(r"^[^#\n].*$", text, flags=re.M))}
    for lock, text in LOCKS.items()
}
DISTRIBUTIONS = metadata.packages_distributions()  # installed packages by the names that are imported
ALL_PINS = {name: pin for pins in PINS.values() for name, pin in pins.items()}
LINUX = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}
MACOS = {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"}


def names(requirements: list[str]) -> set[str]:
    """Canonical names of requirements as pyproject.toml writes them."""
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def wanted(platform: dict[str, str]) -> set[str]:
    """Names that the locks install on a platform."""
    return {name for name, pin in ALL_PINS.items() if pin.marker is None or pin.marker.evaluate(platform)}


@pytest.fixture(scope="module")
def script() -> SimpleNamespace:
    """What .ci/lock.py defines, which lies in no package."""
    return SimpleNamespace(**runpy.run_path(ROOT / ".ci" / "lock.py"))


# -------------------------------------------------------------------------------------------------------- the locks


def test_locks_hold_what_is_declared():
    """Each dependency of pyproject.toml is in the locks, on both platforms, at a version that it admits."""
    for requirement in map(Requirement, STUDY + EXTRAS["test"] + EXTRAS["site"]):
        name = canonicalize_name(requirement.name)
        (pin,) = ALL_PINS[name].specifier
        assert requirement.specifier.contains(pin.version) and pin.operator == "=="
        assert name in wanted(LINUX) & wanted(MACOS)


def test_each_package_is_in_exactly_one_lock(script):
    """Two pins of one package could disagree; the lines are sorted, below two of comment."""
    assert set(LOCKS) == set(script.WHAT) == {"numerics", "report", "site", "tools"}
    assert len(ALL_PINS) == sum(len(pins) for pins in PINS.values())
    for lock, pins in PINS.items():
        assert list(pins) == sorted(pins) and len(pins) == len(LOCKS[lock].strip().splitlines()) - 2


def test_a_release_changes_what_it_can_change(script):
    """What changes a key of the store is in numerics.lock, what draws in report.lock, tools are in neither."""
    numerics, tools = set(PINS["numerics"]), {"pytest", "ruff", "jupyterlab", "dvc", "papermill", "joblib", "pydantic"}
    assert script.NUMERICS == NUMERICS and {canonicalize_name(name) for name in NUMERICS} <= numerics
    assert {*script.REPORT} <= set(PINS["report"]) | numerics and tools <= set(PINS["tools"])


@pytest.mark.parametrize("lock", ["numerics", "report"])
def test_a_lock_holds_what_its_packages_need(lock, script):
    """Whatever an installed package of a lock asks for is pinned there, or among the numerics: nothing is missed."""
    there = set(PINS[lock]) | set(PINS["numerics"])
    here = {canonicalize_name(each.name) for each in metadata.distributions()}
    for name in (PINS[lock].keys() & here) - names(list(script.NOT_FOLLOWED)):
        for needed in map(Requirement, metadata.requires(name) or []):
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                assert canonicalize_name(needed.name) in there or script.CUDA.match(needed.name), needed


def test_torch_comes_without_cuda(script):
    """CUDA is left to torch, which names it by itself; the kernel's helper for macOS is for macOS alone."""
    assert not [name for name in ALL_PINS if script.CUDA.match(name)]
    assert wanted(MACOS) - wanted(LINUX) == {"appnope"}


# ------------------------------------------------------------------------------------------------ declared and used

DECLARED = {
    "saqlib": names(PROJECT["dependencies"] + ["torch", "scipy", "pandas", "captum", "onnx", "xarray", "statsmodels"]),
    "study": names(STUDY + EXTRAS["ray"] + EXTRAS["site"]),
    "notebooks": names(STUDY),
    "tests": names(STUDY + EXTRAS["ray"] + EXTRAS["test"]),
    "benchmarks": names(STUDY + EXTRAS["bench"]),
    ".ci": names(STUDY + EXTRAS["test"]),
}
OWN = {"saqlib", "study", "tests", "benchmarks"}
# What nobody imports: where it is used, and by which words.
USED_OTHERWISE = {
    "furo": ("site/conf.py", 'html_theme = "furo"'),
    "ipykernel": ("study/notebooks.py", "(ipykernel)"),  # the kernel of every notebook
    "myst-nb": ("site/conf.py", 'extensions = ["myst_nb"]'),
    "nbval": ("Makefile", "--nbval --nbval-current-env"),
    "pytest-xdist": ("Makefile", "--numprocesses"),
    "ruff": ("Makefile", "-m ruff"),
    "jupyter-client": ("study/notebooks.py", '"kernel_name"'),
    "jupyterlab": ("Makefile", "-m jupyterlab"),
    "playwright": ("tests/slow/test_site.py", 'importorskip("playwright.sync_api"'),
    "torchvision": ("study/download.py", "import contextlib, socket, sys, torchvision"),  # in a process of its own
}


@functools.cache
def imported(folder: str) -> frozenset[str]:
    """Top-level names that a folder's modules and notebooks import, also inside functions, but Python's and ours."""
    codes = [path.read_text(encoding="utf-8") for path in (ROOT / folder).rglob("*.py")]
    for path in (ROOT / folder).rglob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        codes += ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    found = set()
    for node in (node for code in codes for node in ast.walk(ast.parse(code))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return frozenset(found - sys.stdlib_module_names - OWN)


def packages_of(name: str) -> set[str]:
    """The packages that an imported name may come from; one that is not installed is taken to be called like it."""
    return {canonicalize_name(package) for package in DISTRIBUTIONS.get(name, [name])}


@pytest.mark.parametrize("folder", DECLARED)
def test_what_is_imported_is_declared(folder):
    """Whoever installs what pyproject.toml declares can run it; nothing is there by luck, as somebody else's need."""
    assert imported(folder)
    for name in imported(folder):
        assert packages_of(name) & DECLARED[folder], f"{folder} imports {name}, which is not declared for it"


def test_what_is_declared_is_used():
    """It is imported somewhere, or used in the way that is listed here."""
    used = {package for folder in DECLARED for name in imported(folder) for package in packages_of(name)}
    for package in names(PROJECT["dependencies"] + [text for extra in EXTRAS.values() for text in extra]):
        if package not in used:
            file, words = USED_OTHERWISE[package]
            assert words in (ROOT / file).read_text(), package


def test_binder_is_a_readers_environment():
    """A few pins, those of the locks, without PyTorch; the checkout itself is importable without asking for more."""
    lines = (ROOT / ".binder" / "requirements.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line[0] != "#"]
    assert names([*PROJECT["dependencies"], *EXTRAS["explore"]]) == {canonicalize_name(pin.name) for pin in pins}
    assert all(str(pin) == str(ALL_PINS[canonicalize_name(pin.name)]) for pin in pins)
    post = ROOT / ".binder" / "postBuild"
    assert "--no-deps --config-settings editable_mode=compat --editable ." in post.read_text()
    assert post.stat().st_mode & 0o111


# ----------------------------------------------------------------------------------------- who installs and who runs


def test_everybody_installs_from_the_locks_on_one_python(script):
    """make, conda and the workflow, whose cache is named by them; 3.11 everywhere."""
    makefile, container = (ROOT / "Makefile").read_text(), (ROOT / ".devcontainer" / "devcontainer.json").read_text()
    assert f"\nLOCKS := {' '.join(f'locks/{lock}.lock' for lock in LOCKS)}\n" in makefile
    assert "\n.venv/.stamp: $(LOCKS) pyproject.toml\n" in makefile and "checkout.pth" in makefile
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    own = "-e . --config-settings editable_mode=compat"
    assert conda == ["python=3.11", "pip", {"pip": [*(f"-r locks/{lock}.lock" for lock in LOCKS), own]}]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    (setup,) = [step["with"] for step in workflow["jobs"]["test"]["steps"] if "cache" in step.get("with", {})]
    assert setup["python-version"] == script.PYTHON == "3.11" and "3.11" in container
    assert {path.stem for path in ROOT.glob(setup["cache-dependency-path"])} == set(LOCKS)
    assert json.loads(container)["postCreateCommand"] == "make env"


def test_the_wheel_holds_the_method_alone():
    """study is run from the checkout."""
    found = CONFIGURED["tool"]["setuptools"]
    assert found["packages"]["find"]["include"] == ["saqlib*"]
    suffixes = {path.suffix for path in (ROOT / "saqlib").rglob("*") if path.is_file()}
    assert suffixes - {".pyc"} == {".py", ".c", ".h", ".typed"}
    assert found["package-data"] == {"saqlib": ["py.typed"], "saqlib.kernels": ["*.c"], "saqlib.deploy": ["device/*"]}
    assert (ROOT / "saqlib" / "py.typed").is_file(), "what is annotated counts for others' type checkers"


def test_jupyterlab_asks_for_neither_news_nor_updates():
    """`make lab` gives it a folder of settings in which both are off, under the names that it knows."""
    assert "lab: export JUPYTER_CONFIG_PATH := $(CURDIR)/.jupyter" in (ROOT / "Makefile").read_text()
    ((plugin, chosen),) = json.loads(
        (ROOT / ".jupyter" / "labconfig" / "default_setting_overrides.json").read_text()).items()  # fmt: skip
    schema = Path(jupyterlab.__file__).parent / "schemas" / f"{plugin.replace(':', '/')}.json"
    known = json.loads(schema.read_text())["properties"]
    assert chosen == {"fetchNews": "false", "checkForUpdates": False} and chosen.keys() <= known.keys()
    assert "false" in [each["const"] for each in known["fetchNews"]["oneOf"]]


@pytest.mark.parametrize("name", [*(f"locks/{lock}.lock" for lock in LOCKS), "environment.yml", "pyproject.toml"])
def test_no_registry_is_named(name):
    """Where packages come from is the installing machine's own setting: no address, no index option."""
    assert not re.search(r"[a-z]://|--[a-z-]*(index|links|host)", (ROOT / name).read_text())


def test_every_recipe_calls_the_environment_by_relative_path():
    """Recipes start .venv/bin/python -m ..., never a script whose first line breaks on a space."""
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^VENV := \.venv/bin/python$", makefile, flags=re.M)
    assert set(re.findall(r"^\t@?(\S+)", makefile, flags=re.M)) == {
        "$(VENV)", "$(INSTALL)", "$(PYTEST)", '"$(PYTHON)"', "awk", "echo", "touch", "rm", "find", "for", "if", "npm"
    }  # fmt: skip


def test_ci_runs_what_a_reader_runs_and_ends_with_the_count():
    """All tests, whether results belong to the code, the site, the quick run; a reader's tests are a part of them."""
    ci, makefile = (ROOT / ".ci" / "run").read_text(), (ROOT / "Makefile").read_text()
    assert re.findall(r"^(?:has_one_of npm && )?make ([a-z-]+)", ci, flags=re.M) == [
        "env", "site", "test-all", "check", "quick"
    ]  # fmt: skip
    assert ci.strip().splitlines()[-1].startswith("grep -E")
    reader = makefile.split("\ntest: ")[1].split("\n\n")[0]
    assert "tests/unit tests/smoke" in reader and "slow" not in reader
    assert "tests/slow" not in makefile and "tests notebooks" in makefile.split("\ntest-all: ")[1].split("\n\n")[0]


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.name)
def test_actions_are_pinned_and_may_only_read(path):
    """By commit, the tag beside it; what a job writes to is said at the job, and the token is not left in the clone."""
    text = path.read_text(encoding="utf-8")
    for use in re.findall(r"uses: (.*)", text):
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", use), use
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert not [each for each in steps if "checkout" in each.get("uses", "") and each["with"]["persist-credentials"]]
