"""The datasets, and the content of their raw files: SHA-256, uncompressed, the same whatever the source.

A new dataset of 28 x 28 grey images in ten classes is one entry here, one in `words` (its names), one source in
`download`, and its epochs in params.yaml.
"""

IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
FILES = tuple(f"{part}-{kind}" for part in ("train", "t10k") for kind in (IMAGES, LABELS))


def _hashes(*digests: str) -> dict[str, str]:
    return dict(zip(FILES, digests, strict=True))


DATASETS = {
    "mnist": _hashes(
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    "fashion_mnist": _hashes(
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}
