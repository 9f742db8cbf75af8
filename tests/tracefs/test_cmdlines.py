"""Names of threads, hostile ones included."""

import pytest

from collector.tracefs.cmdlines import parse_saved_cmdlines, parse_saved_tgids


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", {}),
        (b"1 init\n20 kworker/0:1\n", {1: b"init", 20: b"kworker/0:1"}),
        (b"1 init", {1: b"init"}),
        (b"7 two words\n8  lead\n9 \n", {7: b"two words", 8: b" lead", 9: b""}),
        (b"7 \xff\xfe\r\x1b[1m\n", {7: b"\xff\xfe\r\x1b[1m"}),
        # A newline in a name.
        (b"7 a\nb\n8 c\n", {7: b"a\nb", 8: b"c"}),
        (b"7 a\n\n\n8 c\n", {7: b"a\n\n", 8: b"c"}),
        (b"7 a\n12345\n8 c\n", {7: b"a\n12345", 8: b"c"}),
        # A name that pretends to name pid 1, which has a line of its own: before or behind it.
        (b"7 x\n1 evil\n1 init\n", {7: b"x\n1 evil", 1: b"init"}),
        (b"1 init-is-15-long\n7 x\n1 evil\n", {1: b"init-is-15-long", 7: b"x\n1 evil"}),
        # A line that is too long for a name goes on with the name before, whatever it looks like.
        (b"7 x\n1 longer than any name\n", {7: b"x\n1 longer than any name"}),
        (b"stray\n7 x\n", {7: b"x"}),
    ],
)
def test_saved_cmdlines(data: bytes, expected: dict[int, bytes]) -> None:
    assert parse_saved_cmdlines(data) == expected


def test_saved_tgids() -> None:
    assert parse_saved_tgids("     1\t1\n     2\t0\n  4711\t4700\nrubbish\n") == {1: 1, 4711: 4700}
