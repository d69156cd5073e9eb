"""Tests of the environment's own files: what is declared, what is locked, and who installs from the lock."""

import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from saqlib.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()
PINS = {
    canonicalize_name(pin.name): pin
    for pin in map(Requirement, re.findall(r"^[^#\n].*$", LOCK, flags=re.MULTILINE))
}
LINUX = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}
MACOS = {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"}


def asked_for(platform: dict[str, str]) -> set[str]:
    """Names that the lock installs on a platform."""
    return {name for name, pin in PINS.items() if pin.marker is None or pin.marker.evaluate(platform)}


@pytest.mark.parametrize("declared", PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"])
def test_lock_holds_what_is_declared(declared):
    """Each dependency of pyproject.toml is in the lock, on both platforms, at a version that it admits."""
    requirement = Requirement(declared)
    name = canonicalize_name(requirement.name)
    (pin,) = PINS[name].specifier
    assert requirement.specifier.contains(pin.version)
    assert name in asked_for(LINUX) & asked_for(MACOS)


def test_lock_pins_one_exact_version_of_each():
    """Each line is one package at one exact version, so that two set-ups get the same."""
    assert len(PINS) == len(LOCK.strip().splitlines()) - 1, "one line of comment, else one package a line"
    for pin in PINS.values():
        assert [specifier.operator for specifier in pin.specifier] == ["=="], pin


def test_only_linux_is_asked_for_cuda():
    """CUDA's packages and triton are in the lock, and only for Linux."""
    cuda = {name for name in PINS if name.startswith(("nvidia-", "cuda-")) or name == "triton"}
    assert len(cuda) > 10 and "nvidia-cublas" in cuda
    assert cuda <= asked_for(LINUX) and not cuda & asked_for(MACOS)


def test_macos_gets_what_only_macos_needs():
    """The kernel's helper for macOS is in the lock, and only for macOS; torch is the same pin on both."""
    assert asked_for(MACOS) - asked_for(LINUX) == {"appnope"}
    assert str(PINS["torch"]) == "torch==2.14.1" and str(PINS["torchvision"]) == "torchvision==0.29.1"


@pytest.mark.parametrize("name", ["requirements.lock", "environment.yml", "pyproject.toml", "Makefile"])
def test_no_registry_is_named(name):
    """Where packages come from is the installing machine's own setting: no address, no index option."""
    text = (ROOT / name).read_text()
    assert not re.search(r"[a-z]://|--[a-z-]*(index|links|host)", text)


def test_conda_installs_from_the_lock():
    """environment.yml takes the lock and the package itself, and pins nothing on its own but Python."""
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert dependencies == ["python=3.11", "pip", {"pip": ["-r requirements.lock", "-e ."]}]


def test_python_versions_agree():
    """pyproject.toml, environment.yml, the lock, ruff and the workflow speak of the same Python."""
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text())
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = workflow["jobs"]["test"]["steps"]
    (version,) = [
        step["with"]["python-version"] for step in steps if "python-version" in step.get("with", {})
    ]
    assert version == "3.11"
    assert PROJECT["requires-python"] == ">=3.11"
    assert configured["tool"]["ruff"]["target-version"] == "py311"
    assert "on Python 3.11." in LOCK.splitlines()[0]


def test_every_recipe_calls_the_environment_by_relative_path():
    """Recipes start .venv/bin/python -m ..., never a script whose first line breaks on a space."""
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^VENV := \.venv/bin/python$", makefile, flags=re.MULTILINE)
    commands = re.findall(r"^\t@?(\S+)", makefile, flags=re.MULTILINE)
    assert re.search(r"^INSTALL := \$\(VENV\) -m pip install\b", makefile, flags=re.MULTILINE)
    assert set(commands) == {"$(VENV)", "$(INSTALL)", '"$(PYTHON)"', "awk", "echo", "touch", "rm", "find"}


def test_ci_runs_the_tests_and_the_quick_run():
    """.ci/run is executable and calls make check, make test, make quick; the workflow calls .ci/run."""
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert re.findall(r"^make (\w+)", script.read_text(), flags=re.MULTILINE) == ["check", "test", "quick"]
    assert "run: .ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()
