"""Which of ATen's operators a computation calls, backward passes included."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

# What ATen hands to MKL's vector library on a CPU. It has other bits for processors of other makers, also of a square
# root, which IEEE 754 would round to one result.
VECTOR_MATH = {
    name + end
    for name in ("acos", "asin", "atan", "cos", "erf", "erfc", "erfinv", "exp", "expm1", "lgamma", "log", "log10",
                 "log1p", "log2", "sin", "sinh", "sqrt", "tan", "tanh")
    for end in ("", "_")
}  # fmt: skip


class Called(TorchDispatchMode):
    """The names of the operators that are called within."""

    def __init__(self):
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.names.add(func.__name__.partition(".")[0])
        return func(*args, **(kwargs or {}))
