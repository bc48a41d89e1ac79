"""Loops on all cores: in order, each turn once, and errors come out."""

from __future__ import annotations

import threading

import pytest

from wsi_espnet.threads import on_threads


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
