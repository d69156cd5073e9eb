"""Where things are: every path follows from this file, never from the working directory."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

PARAMS = ROOT / "params.yaml"
NOTEBOOKS = ROOT / "notebooks"
SAMPLE = ROOT / "tests" / "sample"
RESULTS = ROOT / "results"
BUILD = ROOT / "build"
