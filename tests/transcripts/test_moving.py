"""What moves in a body is found as if it were the first, and the body is whole again with it."""

from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.transcripts.moving import take_out
from ccflare_core.transcripts.splitting import join

PARTS = st.sampled_from(
    (
        *(
            b',"cache_control":{"type":"ephemeral"}',
            b',  "cache_control" :\n{',
            b'"cache_control"',
            b'"cache_control":7',
        ),
        *(b"x-anthropic-billing-header: cch=1;", b"x-anthropic-billing-header:", b'"previous_message_id":"msg_1"'),
        *(b'"previous_message_id"', b"{", b"}", b'"', b"\\", b",", b":", b" " * 41, b"x" * 60, b"x" * 600),
    )
)
BODIES = st.lists(PARTS, max_size=30)


@given(front=BODIES, bodies=st.lists(BODIES, min_size=2, max_size=4))
def test_what_moves_is_found_in_every_body_of_a_session_as_in_the_first(
    front: list[bytes], bodies: list[list[bytes]]
) -> None:
    begun, earlier = b"".join(front), None
    for body in (begun + b"".join(parts) for parts in bodies):
        found = take_out(body, earlier, len(begun))
        assert found == take_out(body)
        assert join([found.rest], found.inserts) == body
        earlier = found


def test_what_moves_is_no_longer_in_the_rest() -> None:
    body = b'{"a":1,"cache_control":{"type":"ephemeral"},"b":"x-anthropic-billing-header: cch=1;"}'
    rest, inserts, _ = take_out(body)
    assert rest == b'{"a":1,"b":""}'
    assert inserts == [(6, b',"cache_control":{"type":"ephemeral"}'), (12, b"x-anthropic-billing-header: cch=1;")]


def test_what_moves_is_taken_out_so_many_times() -> None:
    body = b'"previous_message_id":"msg_1"' * 300
    found = take_out(body)
    assert len(found.inserts) == 200
    assert take_out(body + b"!", found, len(body)) == take_out(body + b"!")
