"""Loops on all cores: in order, each turn once, and errors come out."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from wsi_espnet.threads import in_order, on_threads


def test_results_keep_the_order_of_the_items_and_no_turn_is_taken_twice() -> None:
    turns: list[int] = []

    def square(x: int) -> int:
        turns.append(x)
        return x * x

    assert on_threads(square, range(100)) == [x * x for x in range(100)]
    assert sorted(turns) == list(range(100))
    assert on_threads(square, []) == []


def test_turns_go_side_by_side_where_there_are_two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    both = threading.Barrier(2, timeout=30)  # broken, and raised, unless two turns wait at once
    assert len(on_threads(lambda _: both.wait(), range(2))) == 2


def test_what_a_turn_raises_is_raised() -> None:
    def refuse_three(x: int) -> int:
        if x == 3:
            raise KeyError("three")
        return x

    with pytest.raises(KeyError, match="three"):
        on_threads(refuse_three, range(10))


@pytest.mark.parametrize("threads", [1, 3])
def test_what_is_done_ahead_comes_in_order(threads: int) -> None:
    begun: list[int] = []

    def square(x: int) -> int:
        begun.append(x)
        return x * x

    found = []
    for place, result in enumerate(in_order(square, range(50), threads=threads)):
        assert len(begun) <= place + 2 * threads
        found.append(result)
    assert found == [x * x for x in range(50)]
    assert sorted(begun) == list(range(50))
    assert list(in_order(square, [], threads=threads)) == []


def test_one_thread_is_the_callers() -> None:
    assert set(in_order(lambda _: threading.get_ident(), range(3), threads=1)) == {threading.get_ident()}


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_an_error_comes_in_its_turn(threads: int) -> None:
    def refuse_three(x: int) -> int:
        if x == 3:
            raise KeyError("three")
        return x

    def ends_at_four() -> Iterator[int]:
        yield from range(4)
        raise OSError("cut off")

    results = in_order(refuse_three, range(10), threads=threads)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError, match="three"):
        next(results)
    words = in_order(str, ends_at_four(), threads=threads)
    assert [next(words) for _ in range(4)] == ["0", "1", "2", "3"]
    with pytest.raises(OSError, match="cut off"):
        next(words)


def test_who_stops_taking_stops_the_rest() -> None:
    begun: list[int] = []
    results = in_order(begun.append, range(1000), threads=2)
    next(results)
    results.close()
    assert len(begun) <= 4
