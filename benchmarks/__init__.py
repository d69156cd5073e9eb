"""The training step beside its peers, and where its time goes; run by `make bench`."""
