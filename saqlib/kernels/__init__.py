"""The network's costly operators in C, for a CPU. Never required: the operators of PyTorch are the reference.

`library` builds and loads `lenet.c`, `operators` calls it from PyTorch, gradients included, and `fused` runs the whole
network by it where that fits.
"""
