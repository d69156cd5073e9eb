"""The library's code as stages depend on it: python -m saqlib.pipeline.code ROOM

Writes build/code/ROOM.py, all code of a room in one text without comments, docstrings and layout, so that a mended
comment re-runs nothing. To read; nobody imports it.
"""

import argparse
import sys

from saqlib import codebase, files, paths
from saqlib.errors import did_you_mean, told


def main(arguments: list[str] | None = None) -> None:
    """The command line above; one readable message and exit code 1 for a room that does not exist."""
    parser = argparse.ArgumentParser(prog="python -m saqlib.pipeline.code", description=__doc__.splitlines()[0])
    parser.add_argument("room", help="a folder or a single file of saqlib, such as network or words")
    name = parser.parse_args(arguments).room
    rooms = sorted({codebase.room(module) for module in codebase.modules()})
    if name not in rooms:
        sys.exit(f"there is no room {name!r} in saqlib{did_you_mean(name, rooms)}")
    with told():
        files.write(paths.BUILD / "code" / f"{name}.py", codebase.room_text(name))


if __name__ == "__main__":
    main()
