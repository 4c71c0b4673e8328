import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.top_k import top_k, top_k_plain


def drawn(rows: int, count: int, *, levels: int | None = None, seed: int = 0) -> torch.Tensor:
    """Scores without ties, or with many where `levels` says how few values there are."""
    generator = torch.Generator().manual_seed(seed)
    if levels is None:
        return torch.stack([torch.randperm(count, generator=generator) for _ in range(rows)]).float()
    return torch.randint(levels, (rows, count), generator=generator).float()


@given(count=st.integers(1, 3000), k=st.integers(1, 60), seed=st.integers(0, 1000))
def test_two_stages_equal_a_plain_top_k(count: int, k: int, seed: int) -> None:
    scores = drawn(3, count, seed=seed)
    k = min(k, count)
    for found, expected in zip(top_k(scores, k), top_k_plain(scores, k), strict=True):
        assert torch.equal(found, expected)


@given(count=st.integers(20, 2000), levels=st.integers(1, 30), seed=st.integers(0, 1000))
def test_ties_change_which_columns_but_not_which_scores(count: int, levels: int, seed: int) -> None:
    scores = drawn(2, count, levels=levels, seed=seed)
    values, columns = top_k(scores, 20)
    assert torch.equal(values, top_k_plain(scores, 20)[0])
    assert torch.equal(scores.gather(1, columns), values)
    assert all(len(set(row)) == 20 for row in columns.tolist())


@pytest.mark.parametrize("column", range(0, 1003, 17))
def test_best_column_is_found_wherever_it_stands(column: int) -> None:
    scores = drawn(1, 1003)
    scores[0, column] = 5000
    assert top_k(scores, 5)[1][0, 0] == column


def test_best_columns_of_one_group_are_all_found() -> None:
    """All k best in one group of the first stage, whichever stride it has."""
    for stride in range(1, 150):
        scores = torch.zeros(1, 2000)
        best = torch.arange(0, 10 * stride, stride)
        scores[0, best] = torch.arange(10, 0, -1).float()
        assert torch.equal(top_k(scores, 10)[1][0], best)


def test_minus_infinity_is_a_score_like_any_other() -> None:
    scores = torch.full((1, 900), -torch.inf)
    scores[0, 123] = 1.0
    values, columns = top_k(scores, 4)
    assert values.tolist() == [[1.0, -torch.inf, -torch.inf, -torch.inf]]
    assert columns[0, 0] == 123


def test_slice_of_a_wider_table_is_no_different() -> None:
    wide = drawn(4, 3000)
    narrow = wide[:, 7:1511]
    assert not narrow.is_contiguous()
    assert torch.equal(top_k(narrow, 20)[1], top_k_plain(narrow.contiguous(), 20)[1])
