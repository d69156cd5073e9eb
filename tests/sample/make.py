"""Write the sample from the verified files in data/.

1,200 train and 300 test images of each dataset: the first ones of each class in the order of the files, the classes
taken in turn, so that the last twelfth (the validation split) is balanced, too.
"""

import argparse
import gzip

import numpy as np

from saqlib.data import DATA, DATASETS, FILES, verify
from study import download, paths

PER_CLASS = {"train": 120, "t10k": 30}


def interleaved(labels: np.ndarray, count: int) -> np.ndarray:
    """Indices of the first `count` of each class, one of each class in turn."""
    return np.stack([np.flatnonzero(labels == label)[:count] for label in range(10)], axis=1).ravel()


def main() -> None:
    for dataset in DATASETS:
        verify(dataset)
        folder = paths.SAMPLE / dataset
        folder.mkdir(parents=True, exist_ok=True)
        for part, count in PER_CLASS.items():
            names = [name for name in FILES if name.startswith(part)]
            images, labels = (np.fromfile(DATA / dataset / name, np.uint8) for name in names)
            images, labels = images[16:].reshape(-1, 28, 28), labels[8:]
            chosen = interleaved(labels, count)
            for name, array in zip(names, (images, labels), strict=True):
                content = gzip.compress(download.idx_bytes(array[chosen]), 9, mtime=0)
                (folder / f"{name}.gz").write_bytes(content)


if __name__ == "__main__":
    argparse.ArgumentParser(description="Write the sample from data/.").parse_args()
    main()
