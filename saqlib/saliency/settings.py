"""The names that settings and saliency share."""

RANKINGS = ("magnitude", "signed")  # what "least salient" means: the words of guided training | its released code
