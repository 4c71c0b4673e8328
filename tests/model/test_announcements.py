import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from model.announcements import SERVING_KEY, Announcement
from model.errors import InvalidAnnouncementError

ANNOUNCEMENT = Announcement(
    version="20261123T211530Z-1a2b3c",
    uri="s3://models/20261123T211530Z-1a2b3c",
    sha256="ab" * 32,
    action="promote",
    metrics={"recall@20": 0.5, "mrr@20": 0.25},
    announced_at_ms=1_795_468_530_000,
)
# Records of the models topic outlive releases: these bytes must stay readable, and are changed with a reader for both.
GOLDEN = (
    b'{"version":"20261123T211530Z-1a2b3c","uri":"s3://models/20261123T211530Z-1a2b3c",'
    b'"sha256":"abababababababababababababababababababababababababababababababab","action":"promote",'
    b'"metrics":{"recall@20":0.5,"mrr@20":0.25},"announced_at_ms":1795468530000}'
)
REJECTED = replace(ANNOUNCEMENT, action="reject", metrics={"cases": 1000.0, "recall@20_difference": -0.125})
GOLDEN_REJECTED = (
    b'{"version":"20261123T211530Z-1a2b3c","uri":"s3://models/20261123T211530Z-1a2b3c",'
    b'"sha256":"abababababababababababababababababababababababababababababababab","action":"reject",'
    b'"metrics":{"cases":1000.0,"recall@20_difference":-0.125},"announced_at_ms":1795468530000}'
)
BY_OPERATOR = replace(ANNOUNCEMENT, by_operator=True)
GOLDEN_BY_OPERATOR = GOLDEN[:-1] + b',"by_operator":true}'
EVERY_FORM = pytest.mark.parametrize(
    ("announcement", "golden"),
    [(ANNOUNCEMENT, GOLDEN), (REJECTED, GOLDEN_REJECTED), (BY_OPERATOR, GOLDEN_BY_OPERATOR)],
    ids=["promote", "reject", "by operator"],
)


@EVERY_FORM
def test_announcement_is_written_as_the_golden_bytes(announcement: Announcement, golden: bytes) -> None:
    assert announcement.encode() == golden


@EVERY_FORM
def test_golden_bytes_read_as_the_announcement(announcement: Announcement, golden: bytes) -> None:
    assert Announcement.decode(golden) == announcement


def test_field_of_a_later_release_is_ignored() -> None:
    assert Announcement.decode(GOLDEN[:-1] + b',"later":[1]}') == ANNOUNCEMENT


def test_key_of_the_serving_version_is_fixed() -> None:
    assert SERVING_KEY == b"serving"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"{}",
        GOLDEN[:-1],
        GOLDEN.replace(b"promote", b"explode"),
        GOLDEN.replace(b'"version":"', b'"version":1,"x":"'),
        GOLDEN.replace(b"0.5", b'"good"'),
    ],
)
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidAnnouncementError, match="not an announcement"):
        Announcement.decode(data)


@given(data=st.binary(max_size=40))
def test_random_bytes_are_refused_and_nothing_else_is_raised(data: bytes) -> None:
    with pytest.raises(InvalidAnnouncementError):
        Announcement.decode(data)
