"""What two bodies have in common: always true, and found where a client changes its conversation."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from bodies_kit import conversation
from ccflare_core.transcripts.changes import Run, alike, alike_before, runs

TEXTS = st.lists(st.sampled_from((b"a", b"b", b"ab" * 40, b"x" * 300, b"lorem ipsum " * 500)), max_size=12).map(
    b"".join
)


def is_true(old: bytes, new: bytes, found: list[Run]) -> bool:
    """Whether the runs are in both, one behind the other."""
    in_order = all(
        first.old + first.length <= then.old and first.new + first.length <= then.new for first, then in pairwise(found)
    )
    return in_order and all(old[run.old :][: run.length] == new[run.new :][: run.length] for run in found)


@given(old=TEXTS, new=TEXTS)
def test_runs_stand_in_both_bodies(old: bytes, new: bytes) -> None:
    assert is_true(old, new, runs(old, new))


@given(old=TEXTS, new=TEXTS)
def test_bytes_are_alike_up_to_the_first_that_is_not(old: bytes, new: bytes) -> None:
    most = min(len(old), len(new))
    first = next((at for at in range(most) if old[at] != new[at]), most)
    last = next((at for at in range(most) if old[-1 - at] != new[-1 - at]), most)
    assert (alike(old, 0, new, 0, most), alike_before(old, len(old), new, len(new), most)) == (first, last)
    assert alike(old, 0, new, 0, first // 2) == first // 2


def test_a_turn_leaves_all_but_its_own_bytes_unchanged() -> None:
    bodies = conversation(30)
    for old, new in pairwise(bodies):
        found = runs(old, new)
        assert is_true(old, new, found)
        assert sum(run.length for run in found) > len(old) - 1000
