"""Tests of the environment's own files: what is declared, used and locked, and who installs from the locks."""

import ast
import functools
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from importlib import metadata
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from saqlib.deployment.explain import OLDEST
from saqlib.paths import ROOT
from saqlib.store import NUMERICS

CONFIGURED = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = CONFIGURED["project"]
EXTRAS = PROJECT["optional-dependencies"]
STUDY = PROJECT["dependencies"] + EXTRAS["study"]  # what everybody installs who runs the pipeline
LOCKS = {path.stem: path.read_text() for path in sorted((ROOT / "locks").glob("*.lock"))}
PINS = {
    lock: {
        canonicalize_name(pin.name): pin
        for pin in map(Requirement, re.findall(r"^[^#\n].*$", text, flags=re.MULTILINE))
    }
    for lock, text in LOCKS.items()
}
ALL_PINS = {name: pin for pins in PINS.values() for name, pin in pins.items()}
LINUX = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}
MACOS = {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"}


def names(requirements: list[str]) -> set[str]:
    """Canonical names of requirements as pyproject.toml writes them."""
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def asked_for(platform: dict[str, str]) -> set[str]:
    """Names that the locks install on a platform."""
    return {name for name, pin in ALL_PINS.items() if pin.marker is None or pin.marker.evaluate(platform)}


@functools.cache
def lock_script() -> ModuleType:
    """The module .ci/lock.py, which lies in no package."""
    spec = importlib.util.spec_from_file_location("lock", ROOT / ".ci" / "lock.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -------------------------------------------------------------------------------------------------------- the locks


def test_there_are_four_locks():
    """numerics, report, site and tools, and .ci/lock.py writes these and no others."""
    assert set(LOCKS) == set(lock_script().WHAT) == {"numerics", "report", "site", "tools"}


@pytest.mark.parametrize("declared", STUDY + EXTRAS["test"] + EXTRAS["site"])
def test_locks_hold_what_is_declared(declared):
    """Each dependency of pyproject.toml is in the locks, on both platforms, at a version that it admits."""
    requirement = Requirement(declared)
    name = canonicalize_name(requirement.name)
    (pin,) = ALL_PINS[name].specifier
    assert requirement.specifier.contains(pin.version)
    assert name in asked_for(LINUX) & asked_for(MACOS)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_one_exact_version_of_each(lock):
    """Each line is one package at one exact version, so that two set-ups get the same; the lines are sorted."""
    assert len(PINS[lock]) == len(LOCKS[lock].strip().splitlines()) - 2, "two lines of comment, then one per package"
    for pin in PINS[lock].values():
        assert [specifier.operator for specifier in pin.specifier] == ["=="], pin
    assert list(PINS[lock]) == sorted(PINS[lock])


def test_each_package_is_in_exactly_one_lock():
    """Two pins of one package could disagree."""
    assert len(ALL_PINS) == sum(len(pins) for pins in PINS.values())


def test_numerics_are_one_list():
    """The packages whose release changes a key of the store are those whose release changes numerics.lock."""
    assert lock_script().NUMERICS == NUMERICS
    assert {canonicalize_name(name) for name in NUMERICS} <= set(PINS["numerics"])
    assert names(STUDY) >= {canonicalize_name(name) for name in NUMERICS}


def test_report_holds_what_decides_tables_figures_and_paper():
    """Each package named for the report is in report.lock, but where the numbers need it already."""
    script = lock_script()
    assert names(STUDY) >= {canonicalize_name(name) for name in script.REPORT}
    assert {canonicalize_name(name) for name in script.REPORT} <= set(PINS["report"]) | set(PINS["numerics"])
    assert not {*script.REPORT} & {*script.NUMERICS}


def test_no_test_runner_is_among_the_numerics():
    """A new pytest, ruff or JupyterLab retrains and redraws nothing."""
    assert {"pytest", "hypothesis", "ruff", "jupyterlab", "dvc", "papermill", "joblib", "tqdm"} <= set(PINS["tools"])


@pytest.mark.parametrize("lock", ["numerics", "report"])
def test_a_lock_holds_what_its_packages_need(lock):
    """Whatever an installed package of a lock asks for is pinned there, or among the numerics: nothing is missed."""
    there = set(PINS[lock]) | set(PINS["numerics"])
    for name in PINS[lock].keys() - names(list(lock_script().NOT_FOLLOWED)):
        for needed in map(Requirement, _needs(name)):
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                assert canonicalize_name(needed.name) in there or lock_script().CUDA.match(needed.name), (
                    f"{name}: {needed}"
                )


def _needs(name: str) -> list[str]:
    """What an installed package asks for; nothing for one that this platform does not have."""
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []


def test_lock_script_divides_packages_by_who_needs_them(monkeypatch):
    """Numerics with all they need, on any platform; of the rest what the report needs; the others are tools."""
    script = lock_script()
    monkeypatch.setattr(script, "NUMERICS", ("torch", "ml_dtypes", "captum"))
    monkeypatch.setattr(script, "REPORT", ("pandas",))
    packages = {
        "torch": {"requires_dist": ["sympy", "jinja2[i18n]", 'cuda ; sys_platform == "linux"', 'x ; extra == "opt"']},
        "jinja2": {"requires_dist": ["markupsafe", 'babel ; extra == "i18n"']},
        "ml-dtypes": {},
        "captum": {"requires_dist": ["torch", "tqdm"]},
        "pandas": {"requires_dist": ["sympy", "six"]},
        "pytest": {"requires_dist": ["pluggy", "six"]},
        **{name: {} for name in ("sympy", "cuda", "x", "markupsafe", "babel", "six", "tqdm", "pluggy")},
    }
    packages |= {"sphinx": {"requires_dist": ["docutils", "jinja2"]}, "docutils": {}}
    assert script.shares(set(packages), packages, {"sphinx", "docutils", "markupsafe"}) == {
        "numerics": {"torch", "sympy", "jinja2", "cuda", "markupsafe", "babel", "ml-dtypes", "captum"},
        "report": {"pandas", "six"},
        "site": {"sphinx", "docutils"},
        "tools": {"x", "tqdm", "pytest", "pluggy"},
    }


def test_cuda_is_left_to_torch():
    """What torch asks for on Linux beside the locks are packages of CUDA, which a build for CPUs does without."""
    cuda = lock_script().CUDA
    assert not [name for name in ALL_PINS if cuda.match(name)]
    needs = [Requirement(text) for text in metadata.requires("torch") or []]
    asked = {
        canonicalize_name(each.name)
        for each in needs
        if each.marker is None or each.marker.evaluate(LINUX | {"extra": ""})
    }
    assert all(cuda.match(name) for name in asked - ALL_PINS.keys())
    assert cuda.match("nvidia-cublas") and cuda.match("triton") and not cuda.match("tritonclient")


def test_macos_gets_what_only_macos_needs():
    """The kernel's helper for macOS is in the locks, and only for macOS; torch is the same pin on both."""
    assert asked_for(MACOS) - asked_for(LINUX) == {"appnope"}
    assert str(ALL_PINS["torch"]) == "torch==2.14.1" and str(ALL_PINS["torchvision"]) == "torchvision==0.29.1"


@pytest.mark.parametrize(
    "name", [*(f"locks/{lock}.lock" for lock in LOCKS), "environment.yml", "pyproject.toml", "Makefile"]
)
def test_no_registry_is_named(name):
    """Where packages come from is the installing machine's own setting: no address, no index option."""
    text = (ROOT / name).read_text()
    assert not re.search(r"[a-z]://|--[a-z-]*(index|links|host)", text)


# ------------------------------------------------------------------------------------------------ declared and used

# What a folder may import: the library needs what everybody installs (and Ray, where somebody asks for it).
DECLARED = {
    "saqlib": names(STUDY + EXTRAS["ray"] + EXTRAS["site"]),
    "notebooks": names(STUDY),
    "tests": names(STUDY + EXTRAS["ray"] + EXTRAS["test"]),
    "benchmarks": names(STUDY + EXTRAS["bench"] + EXTRAS["ray"]),
    ".ci": names(STUDY + EXTRAS["test"]),
}
OWN = {"saqlib", "tests", "benchmarks"}
# What nobody imports: where it is used, and by which words.
USED_OTHERWISE = {
    "furo": ("site/conf.py", 'html_theme = "furo"'),
    "ipykernel": ("saqlib/pipeline/forms.py", "(ipykernel)"),  # the kernel of every notebook
    "myst-nb": ("site/conf.py", 'extensions = ["myst_nb"]'),
    "nbval": ("Makefile", "--nbval --nbval-current-env"),
    "playwright": ("tests/site/test_pages.py", 'importorskip("playwright.sync_api"'),
    "pytest-xdist": ("Makefile", "--numprocesses"),
    "ruff": ("Makefile", "-m ruff"),
}


def codes(folder: str) -> list[str]:
    """Every piece of Python in a folder: its modules, and the code cells of its notebooks."""
    found = [path.read_text(encoding="utf-8") for path in (ROOT / folder).rglob("*.py")]
    for path in (ROOT / folder).rglob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        found += ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return found


@functools.cache
def imported(folder: str) -> frozenset[str]:
    """Top-level names that a folder imports, also inside functions, but for Python's own and ours."""
    found = set()
    for node in (node for code in codes(folder) for node in ast.walk(ast.parse(code))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return frozenset(found - sys.stdlib_module_names - OWN)


@functools.cache
def distributions() -> dict[str, list[str]]:
    """The installed packages that an imported name comes from; reading them all takes a second or two."""
    return dict(metadata.packages_distributions())


def packages_of(name: str) -> set[str]:
    """The packages that an imported name may come from; one that is not installed is taken to be called like it."""
    return {canonicalize_name(package) for package in distributions().get(name, [name])}


@pytest.mark.parametrize("folder", DECLARED)
def test_what_is_imported_is_declared(folder):
    """Whoever installs what pyproject.toml declares can run it; nothing is there by luck, as somebody else's need."""
    assert imported(folder)
    for name in imported(folder):
        assert packages_of(name) & DECLARED[folder], f"{folder} imports {name}, which is not declared for it"


@pytest.mark.parametrize("package", sorted(names(PROJECT["dependencies"] + [r for e in EXTRAS.values() for r in e])))
def test_what_is_declared_is_used(package):
    """It is imported somewhere, or used in the way that is told here, and not told here if it is imported."""
    imports = any(package in packages_of(name) for folder in DECLARED for name in imported(folder))
    assert imports != (package in USED_OTHERWISE)
    if not imports:
        file, words = USED_OTHERWISE[package]
        assert words in (ROOT / file).read_text()


# ------------------------------------------------------------------------------------------------ a reader's share

# What a reader without PyTorch runs, and the extra that it takes.
READERS = {"deployment.explain": [], "explore.networks": [], "explore.desk": EXTRAS["explore"]}
IF_THERE = {"_ruamel_yaml"}  # ruamel.yaml takes its parser in C where that is installed


@pytest.mark.parametrize("module", READERS)
def test_a_reader_needs_no_more_than_declared(module):
    """In a fresh interpreter, what is imported of other packages is declared, or asked for by what is declared."""
    script = f"import sys; own = {{*sys.modules}}; import saqlib.{module}; print(*{{*sys.modules}} - own)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = (
        {name.split(".")[0] for name in done.stdout.split()}
        - sys.stdlib_module_names
        - OWN
        - set(sys.builtin_module_names)
    )
    loaded = {name for name in loaded if name in distributions()} - IF_THERE
    installed = lock_script().needed(
        PROJECT["dependencies"] + READERS[module], LINUX, {n: {"requires_dist": _needs(n)} for n in ALL_PINS}
    )
    assert {name for name in loaded if not packages_of(name) & installed} == set()


def test_every_environment_has_the_lower_bound_of_onnxruntime():
    """Older ones cannot read the files of 2 bits: declared, locked, in Binder's environment, named where it fails."""
    (declared,) = [Requirement(text) for text in PROJECT["dependencies"] if text.startswith("onnxruntime")]
    assert not declared.specifier.contains("1.27.0") and declared.specifier.contains("1.28.0")
    binder = (ROOT / ".binder" / "requirements.txt").read_text()
    for text in (str(ALL_PINS["onnxruntime"]), re.search(r"^onnxruntime==.*$", binder, flags=re.MULTILINE)[0]):
        assert declared.specifier.contains(next(iter(Requirement(text).specifier)).version)
    assert OLDEST in str(declared) and f"ONNX Runtime {OLDEST}" in (ROOT / "README.md").read_text()


def test_binder_is_a_readers_environment():
    """A few pins, those of the locks, without PyTorch; the package itself is installed without asking for more."""
    pins = [
        Requirement(line) for line in (ROOT / ".binder" / "requirements.txt").read_text().splitlines() if line[0] != "#"
    ]
    assert names([*PROJECT["dependencies"], *EXTRAS["explore"]]) == {canonicalize_name(pin.name) for pin in pins}
    assert all(str(pin) == str(ALL_PINS[canonicalize_name(pin.name)]) for pin in pins)
    post = ROOT / ".binder" / "postBuild"
    assert "pip install --no-deps --editable ." in post.read_text() and post.stat().st_mode & 0o111
    assert (ROOT / ".binder" / "runtime.txt").read_text() == f"python-{lock_script().PYTHON}\n"


def test_the_development_container_sets_up_what_make_does():
    """On the same Python, by the same command."""
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert container["image"].split(":")[1].split("-")[-2] == lock_script().PYTHON
    assert container["postCreateCommand"] == "make env"


# ----------------------------------------------------------------------------------------- who installs and who runs


def test_conda_installs_from_the_locks():
    """environment.yml takes the locks and the package itself, and pins nothing on its own but Python."""
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert dependencies == ["python=3.11", "pip", {"pip": [*(f"-r locks/{lock}.lock" for lock in LOCKS), "-e ."]}]


def test_make_installs_from_the_locks():
    """Every lock is installed, and a change of any of them, or of pyproject.toml, sets .venv up anew."""
    makefile = (ROOT / "Makefile").read_text()
    assert f"\nLOCKS := {' '.join(f'locks/{lock}.lock' for lock in LOCKS)}\n" in makefile
    assert "\n.venv/.stamp: $(LOCKS) pyproject.toml\n" in makefile
    assert "$(INSTALL) $(addprefix --requirement ,$(LOCKS))" in makefile


def test_a_lock_dated_in_the_future_sets_up_once(tmp_path):
    """As after a copy from a machine whose clock runs ahead: make does not begin anew each time."""
    shutil.copytree(ROOT / "locks", tmp_path / "locks")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nif [ "$2" = venv ]; then mkdir -p .venv/bin; cp "$0" .venv/bin/python; fi\n')
    python.chmod(0o755)
    for days, name in enumerate(("numerics.lock", "tools.lock"), start=1):
        later = time.time() + days * 86400
        os.utime(tmp_path / "locks" / name, (later, later))
    said = [
        subprocess.run(
            ["make", "env", "PYTHON=./python"], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert "Setting up .venv" in said[0] and "Setting up .venv" not in said[1]


def test_jupyterlab_asks_nobody_for_news_and_updates():
    """The switches are there, and `make lab` uses them."""
    from jupyterlab.labapp import LabApp

    switches = ("--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate")
    assert all(switch in (ROOT / "Makefile").read_text() for switch in switches)
    app = LabApp()
    app.parse_command_line(list(switches))
    assert app.news_url is None and app.check_for_updates_class.__name__ == "NeverCheckForUpdate"


def test_python_versions_agree():
    """pyproject.toml, environment.yml, the locks, ruff and the workflow speak of the same Python."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = workflow["jobs"]["test"]["steps"]
    (version,) = [step["with"]["python-version"] for step in steps if "python-version" in step.get("with", {})]
    assert version == lock_script().PYTHON == "3.11"
    assert PROJECT["requires-python"] == ">=3.11"
    assert CONFIGURED["tool"]["ruff"]["target-version"] == "py311"
    for text in LOCKS.values():
        assert re.search(r"\bon Python 3\.11\b", text.splitlines()[0])


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_and_may_only_read(path):
    """By commit, the tag beside it; what a job writes to is said at the job, and the token is not left in the clone."""
    text = path.read_text(encoding="utf-8")
    for use in re.findall(r"uses: (.*)", text):
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", use), use
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            if "actions/checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False


def test_nothing_is_told_to_anybody(tmp_path):
    """DVC's and Ray's reports of use are off, whoever starts them."""
    from saqlib.pipeline import calls

    assert "analytics = false" in (ROOT / ".dvc" / "config").read_text()
    assert calls.environment(tmp_path)["DVC_NO_ANALYTICS"] == "1"
    assert (
        'environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")'
        in (ROOT / "saqlib" / "pipeline" / "engines.py").read_text()
    )


def test_workflow_caches_by_the_locks():
    """A changed lock is a new cache of packages."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = workflow["jobs"]["test"]["steps"]
    (pattern,) = [step["with"]["cache-dependency-path"] for step in steps if "cache" in step.get("with", {})]
    assert {path.stem for path in ROOT.glob(pattern)} == set(LOCKS)


def test_every_recipe_calls_the_environment_by_relative_path():
    """Recipes start .venv/bin/python -m ..., never a script whose first line breaks on a space."""
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^VENV := \.venv/bin/python$", makefile, flags=re.MULTILINE)
    commands = re.findall(r"^\t@?(\S+)", makefile, flags=re.MULTILINE)
    assert re.search(r"^INSTALL := \$\(VENV\) -m pip install\b", makefile, flags=re.MULTILINE)
    assert set(commands) == {"$(VENV)", "$(INSTALL)", '"$(PYTHON)"', "awk", "echo", "touch", "rm", "find", "for", "if",
                             "npm"}  # fmt: skip


def test_ci_runs_the_tests_and_the_quick_run():
    """.ci/run: make check, site (where there is npm), test and quick; it fails with the last three. CI calls it."""
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    text = script.read_text()
    called = re.findall(r"^(?:has_one_of npm && )?make (\w+)", text, flags=re.MULTILINE)
    assert called == ["check", "site", "test", "quick"]
    assert "\nset -euo pipefail\n" in text, "a failed test fails the whole, also in front of a pipe"
    forgiven = re.findall(r"^make (\w+).*(?:\|\||;)", text, flags=re.MULTILINE)
    assert set(forgiven) <= {"check"}
    assert "run: .ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()
