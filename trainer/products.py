"""Whose matrix products the fast step takes: the tensor library's, or those compiled here for one core.

The tensor library's are MKL's, which uses half of the width that the registers of AMD's processors may have.
"""

from typing import Protocol

import torch
from llvmlite import binding  # type: ignore[import-untyped]

from model.kernels.compiling import Floats
from model.kernels.products import compile_products, multiply

_AMD = "znver"


class Multiply(Protocol):
    """Multiplies matrices."""

    def __call__(self, left: Floats, right: Floats, out: Floats, adds: bool, /) -> None:  # noqa: FBT001 - a kernel
        """Write left [M, K] right [K, N] to `out` [M, N], or add it to what is there; rows' values lie side by side."""


def choose_multiply() -> Multiply:
    """Return what multiplies faster on this processor, compiled and ready; the compiled products take one thread."""
    if not str(binding.get_host_cpu_name()).startswith(_AMD) or torch.get_num_threads() > 1:
        return multiply_by_torch
    compile_products()
    return multiply


def multiply_by_torch(left: Floats, right: Floats, out: Floats, adds: bool, /) -> None:  # noqa: FBT001
    """See `Multiply`."""
    factors, target = (torch.from_numpy(left), torch.from_numpy(right)), torch.from_numpy(out)
    if adds:
        target.addmm_(*factors)
    else:
        torch.mm(*factors, out=target)
