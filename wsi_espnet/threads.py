"""Loops whose turns do not need each other, on all cores of this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from wsi_espnet.machine import cores

MOST = 8
"""Threads at most: each holds some 60 MB while it shrinks a part of a slide (`wsi_espnet.slides.resample`)."""

Item = TypeVar("Item")
Found = TypeVar("Found")


def on_threads(function: Callable[[Item], Found], items: Iterable[Item]) -> list[Found]:
    """What `function` gives for each item, in their order; what it raises is raised here.

    Worth it for what releases Python's lock: reading slides, Zarr, most of NumPy and SciPy.
    """
    with ThreadPoolExecutor(min(MOST, cores())) as pool:
        return list(pool.map(function, items))


def in_order(function: Callable[[Item], Found], items: Iterable[Item], *, threads: int) -> Iterator[Found]:
    """What `function` gives for each item, in their order, while it is at work on the next ones.

    Results wait for who takes them, at most twice as many as there are threads. With one thread nothing is done ahead,
    and all on the caller's. What the function raises is raised in its item's turn, what `items` raises behind the last.
    """
    if threads == 1:
        yield from map(function, items)
        return
    ahead: deque[Future[Found]] = deque()
    coming = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        try:
            while True:
                try:
                    item = next(coming)
                except StopIteration:
                    break
                except Exception:
                    while ahead:
                        yield ahead.popleft().result()
                    raise
                ahead.append(pool.submit(function, item))
                if len(ahead) == 2 * threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for result in ahead:
                result.cancel()
