import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from model.tensor_files import read_safetensors

TYPES = [np.float64, np.float32, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint8, np.bool_]
FILE = safetensors.torch.save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])}, {"made by": "a test"})

tensors = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda name: name != "__metadata__"),
    st.sampled_from(TYPES).flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0))),
    max_size=4,
)


@given(tensors)
def test_what_the_library_wrote_is_read(written: dict[str, np.ndarray]) -> None:
    file = safetensors.torch.save({name: torch.from_numpy(array.copy()) for name, array in written.items()})
    found = read_safetensors(file)
    assert found.keys() == written.keys()
    for name, array in written.items():
        assert found[name].shape == array.shape
        np.testing.assert_array_equal(found[name].numpy(), array, strict=True)


def test_tensors_may_be_changed_and_the_file_stays() -> None:
    file = bytes(FILE)
    read_safetensors(file)["a"].zero_()
    assert file == FILE


@given(st.integers(0, len(FILE) - 1))
def test_every_truncated_file_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=r"bytes|header"):
        read_safetensors(FILE[:length])


@pytest.mark.parametrize(
    ("replaced", "by", "message"),
    [
        (b'"F32"', b'"F31"', "is of type F31"),
        (b"[2,3]", b"[3,3]", "takes 36 bytes"),
        (b"[2,3]", b"[-2,", "header"),
        (b"{", b"[", "header"),
    ],
)
def test_a_header_that_is_wrong_is_refused(replaced: bytes, by: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_safetensors(FILE.replace(replaced, by, 1))
