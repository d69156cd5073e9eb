"""Tests of saqlib.site.build: whole or not at all, with one clear line where something is missing."""

import json
import re

import pytest

from saqlib import paths
from saqlib.site import build
from tests.site.conftest import needs_npm, needs_sphinx

SITE = paths.ROOT / "site"


@needs_sphinx
@pytest.mark.parametrize("missing", ["onnxruntime-web/dist", "math.woff2"])
def test_a_missing_package_is_named_with_the_command_that_brings_it(missing, tmp_path, monkeypatch):
    """Before anything is written."""
    for name in ["onnxruntime-web/dist/x", *build.FONTS.values()]:
        if not name.startswith(missing) and not name.endswith(build.FONTS.get(missing, "none")):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
    monkeypatch.setattr(build, "MODULES", tmp_path)
    with pytest.raises(build.SiteError, match=r"is missing; run `make site`"):
        build.build(out=tmp_path / "site")
    assert not (tmp_path / "site").exists()


@needs_npm
@needs_sphinx
def test_a_failed_build_leaves_the_site_as_it_was(tmp_path, monkeypatch):
    """And nothing beside it."""
    out = tmp_path / "site"
    out.mkdir()
    (out / "index.html").write_text("before")
    monkeypatch.setattr(build, "write_pages", lambda root, pages: (_ for _ in ()).throw(build.SiteError("no table")))
    monkeypatch.setattr(build, "OUT", out)
    with pytest.raises(build.SiteError):
        build.build(out=out)
    assert [path.name for path in tmp_path.iterdir()] == ["site"] and (out / "index.html").read_text() == "before"


def test_the_command_ends_in_one_message(monkeypatch):
    """Exit code 1 where something is missing."""
    monkeypatch.setattr(build, "build", lambda: (_ for _ in ()).throw(build.SiteError("npm is missing")))
    with pytest.raises(SystemExit, match="npm is missing"):
        build.main()


def test_the_lock_of_npm_names_no_registry():
    """Where packages come from is the installing machine's own setting; each has its hash."""
    lock = json.loads((SITE / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert packages and all("resolved" not in package and package["integrity"] for package in packages.values())
    declared = json.loads((SITE / "package.json").read_text())["dependencies"]
    assert all(packages[f"node_modules/{name}"]["version"] == version for name, version in declared.items())
    assert "omit-lockfile-registry-resolved=true" in (SITE / ".npmrc").read_text()


def test_scripts_are_few_small_and_need_nothing():
    """Plain JavaScript: no file over 300 lines, no import but of the runtime from memory."""
    scripts = sorted((SITE / "static").glob("*.js"))
    assert 3 <= len(scripts) <= 8
    for path in scripts:
        text = path.read_text()
        assert len(text.splitlines()) <= 300 and text.count("\n  function ") > 0
        assert re.findall(r"import\(\w+\)|import .* from|require\(", text) in ([], ["import(address)"])
