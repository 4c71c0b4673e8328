"""Reading safetensors files that are in memory already, without holding up the interpreter's other threads.

The library's own `load` copies all tensors under the interpreter's lock, half a second for a million items, in which a
worker that loads them beside its answers answers nobody. NumPy copies without the lock.
"""

import math
from typing import Annotated

import msgspec
import numpy as np
import torch
from torch import Tensor

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_LENGTH_BYTES = 8
_METADATA = "__metadata__"


class _Entry(msgspec.Struct, frozen=True):
    dtype: str
    shape: list[Annotated[int, msgspec.Meta(ge=0)]]
    data_offsets: tuple[int, int]


_HEADER = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENTRY = msgspec.json.Decoder(_Entry)


def read_safetensors(data: bytes) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, copied out of it.

    Raises:
        ValueError: It is none, or has a tensor of a type that is not known here.
    """
    header_bytes = int.from_bytes(data[:_LENGTH_BYTES], "little")
    begin = _LENGTH_BYTES + header_bytes
    if len(data) < _LENGTH_BYTES or begin > len(data):
        raise ValueError(f"a header of {header_bytes} bytes does not fit {len(data)} bytes")
    try:
        header = _HEADER.decode(data[_LENGTH_BYTES:begin])
        entries = {name: _ENTRY.decode(entry) for name, entry in header.items() if name != _METADATA}
    except msgspec.MsgspecError as error:
        raise ValueError(f"its header is not what it should be: {error}") from error
    return {name: _tensor(name, entry, memoryview(data)[begin:]) for name, entry in entries.items()}


def _tensor(name: str, entry: _Entry, body: memoryview) -> Tensor:
    if entry.dtype not in _DTYPES:
        raise ValueError(f"{name} is of type {entry.dtype}, expected one of {', '.join(_DTYPES)}")
    dtype, (first, end) = np.dtype(_DTYPES[entry.dtype]), entry.data_offsets
    size_bytes = math.prod(entry.shape) * dtype.itemsize
    if not 0 <= first <= end <= len(body) or end - first != size_bytes:
        raise ValueError(f"{name} of shape {entry.shape} takes {size_bytes} bytes, not {first} to {end} of {len(body)}")
    return torch.from_numpy(np.frombuffer(body[first:end], dtype).reshape(entry.shape).copy())
