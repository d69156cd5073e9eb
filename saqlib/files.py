"""Files that are written whole or not at all."""

import os
import tempfile
from pathlib import Path


def write(path: Path, content: bytes | str) -> Path:
    """Write to a temporary name in the same folder, which is made if need be, then move; the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content.encode() if isinstance(content, str) else content)
    try:
        os.chmod(file.name, 0o644)  # a temporary file is for its owner alone
        os.replace(file.name, path)
    except OSError:
        os.unlink(file.name)
        raise
    return path
