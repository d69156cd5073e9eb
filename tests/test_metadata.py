"""The files that others' tools read of the project agree with it and with each other."""

import json
import tomllib

import yaml

from saqlib import paths

CITATION = yaml.safe_load((paths.ROOT / "CITATION.cff").read_text())
ZENODO = json.loads((paths.ROOT / ".zenodo.json").read_text())
CODECHECK = yaml.safe_load((paths.ROOT / "codecheck.yml").read_text())
PROJECT = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]


def test_they_speak_of_one_version_licence_and_title():
    """Of the package that is installed."""
    assert str(CITATION["version"]) == ZENODO["version"] == PROJECT["version"]
    assert CITATION["license"] == ZENODO["license"] == PROJECT["license"]
    assert CITATION["title"] == ZENODO["title"]


def test_the_replicated_paper_is_cited_with_its_authors():
    """Its arXiv number is the one that the archive relates to."""
    (original,) = CITATION["references"]
    assert len(original["authors"]) == 5
    identifier = original["identifiers"][0]["value"]
    assert [entry["identifier"] for entry in ZENODO["related_identifiers"]] == [identifier] == ["arXiv:2411.05858"]


def test_every_file_of_the_codecheck_exists():
    """And each says what it is."""
    assert len(CODECHECK["manifest"]) > 10
    for entry in CODECHECK["manifest"]:
        assert (paths.ROOT / entry["file"]).is_file() and entry["comment"]
