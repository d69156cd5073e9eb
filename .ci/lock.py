"""Write locks/: what pip resolves pyproject.toml to, with markers for Linux and macOS.

Four files, each package in one of them: numerics.lock, whose releases may change a number of the experiment;
report.lock, whose releases may change a table, a figure or the paper; site.lock, which the reading copy alone needs;
tools.lock, all others.

pip resolves for the machine that it runs on. Its report holds the metadata of every package, so the
requirements can be walked once a platform: what only Linux asks for gets a Linux marker, what only macOS asks for
(appnope) is resolved by itself and gets a macOS marker. What PyTorch's build for CUDA asks for is left out: torch names
it by itself, and a build for CPUs needs none of it.

Without hashes: one lock serves Linux and macOS, x86-64 and arm64, and Python 3.11 and later, so each line would need
the hashes of a release's every file, where pip tells that of the one that it would take here. What decides a number is
guarded otherwise: the releases stand in every key of the store, and the data have hashes.
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from study import files

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "locks"
NUMERICS = ("captum", "numpy", "onnx", "onnxruntime", "scipy", "torch")
REPORT = ("jinja2", "matplotlib", "pandas", "pillow", "seaborn", "typst", "xarray")
NOT_FOLLOWED = ("captum",)  # of what it asks for, only numpy and torch compute
PYTHON = "3.11"
PLATFORMS = {
    "linux": {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"},
    "darwin": {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"},
}
CUDA = re.compile("(cuda|nvidia)-|triton$")  # packages of PyTorch's build for CUDA
OLD_ENOUGH = ["soupsieve<3"]  # later ones refuse Python below 3.11.5, and Debian 12 has 3.11.2
HEADER = """\
# Of what pyproject.toml (with its extras "study" and "test") resolves to on Python 3.11: {what}.
# Written by `make lock`; do not edit.
"""
WHAT = {
    "numerics": "packages whose releases may change a number",
    "report": "packages whose releases may change a table, a figure or the paper",
    "site": 'what its extra "site", for the reading copy, adds',
    "tools": "all other packages",
}


def declared(*extras: str) -> list[str]:
    """The requirements of pyproject.toml and of some of its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project["dependencies"] + [line for extra in extras for line in project["optional-dependencies"][extra]]


def resolve(requirements: list[str], *options: str) -> dict[str, dict]:
    """Metadata of each package that pip would install into an empty environment, by canonical name."""
    command = [sys.executable, "-m", "pip", "install", "-qq", "--dry-run", "--ignore-installed"]
    report = subprocess.run(
        [*command, *options, "--report", "-", *requirements], check=True, stdout=subprocess.PIPE, text=True
    )
    packages = [item["metadata"] for item in json.loads(report.stdout)["install"]]
    return {canonicalize_name(package["name"]): package for package in packages}


def needed(requirements: list[str], platform: dict[str, str], packages: dict[str, dict]) -> set[str]:
    """Names that a platform asks for; a package whose metadata is not at hand is named, not followed."""
    base = platform | {"python_version": PYTHON, "python_full_version": f"{PYTHON}.9", "extra": ""}
    seen: set[tuple[str, str]] = set()
    queue = [(Requirement(text), "") for text in requirements]
    while queue:
        requirement, extra = queue.pop()
        if requirement.marker and not requirement.marker.evaluate(base | {"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for wanted in ["", *requirement.extras]:
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                below = packages.get(name, {}).get("requires_dist", [])
                queue += [(Requirement(text), wanted) for text in below]
    return {name for name, _ in seen}


def shares(everything: set[str], packages: dict[str, dict], site: set[str]) -> dict[str, set[str]]:
    """The packages of each file: numerics with what they ask for, then the report, then the site's, then the rest."""
    shallow = {name: {} if name in NOT_FOLLOWED else package for name, package in packages.items()}

    def closure(names: tuple[str, ...]) -> set[str]:
        canonical = [canonicalize_name(name) for name in names]
        return set.union(*(needed(canonical, platform, shallow) for platform in PLATFORMS.values())) & everything

    numerics = closure(NUMERICS)
    report = closure(REPORT) - numerics
    site = site - numerics - report
    return {"numerics": numerics, "report": report, "site": site, "tools": everything - numerics - report - site}


def main() -> None:
    if sys.version_info[:2] != tuple(map(int, PYTHON.split("."))) or sys.platform != "linux":
        sys.exit(f"The lock is made with Python {PYTHON} on Linux, where every marker can be checked.")
    requirements = declared("study", "test", "site")
    packages = resolve(requirements + OLD_ENOUGH)
    while True:
        wanted = {platform: needed(requirements, env, packages) for platform, env in PLATFORMS.items()}
        missing = sorted(set.union(*wanted.values()) - set(packages))
        if not missing:
            break
        packages |= resolve(missing, "--no-deps")
    everything = {name for name in set.union(*wanted.values()) if not CUDA.match(name)}
    without = set.union(*(needed(declared("study", "test"), env, packages) for env in PLATFORMS.values()))
    for lock, names in shares(everything, packages, everything - without).items():
        lines = []
        for name in sorted(names):
            platforms = [platform for platform in PLATFORMS if name in wanted[platform]]
            marker = f' ; sys_platform == "{platforms[0]}"' if len(platforms) == 1 else ""
            lines.append(f"{name}=={packages[name]['version']}{marker}\n")
        files.write(LOCKS / f"{lock}.lock", HEADER.format(what=WHAT[lock]) + "".join(lines))


if __name__ == "__main__":
    argparse.ArgumentParser(description="Write locks/ from pyproject.toml.").parse_args()
    main()
