"""Where the time of a run goes: spans of chosen functions, taken from outside while the library runs unchanged."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Spell(NamedTuple):
    """One call: what was called, when it began and ended (seconds of the monotonic clock)."""

    name: str
    start: float
    stop: float


@dataclass
class Trace:
    """Calls of watched functions, in the order in which they ended."""

    spells: list[Spell] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def watch(self, owner: Any, attribute: str, name: str) -> None:
        """Note every call of a function of a module, or a method of a class, under `name`."""
        original: Callable[..., Any] = getattr(owner, attribute)

        @functools.wraps(original)
        def noted(*args: Any, **kwargs: Any) -> Any:
            start = time.monotonic()
            try:
                return original(*args, **kwargs)
            finally:
                with self.lock:
                    self.spells.append(Spell(name, start, time.monotonic()))

        setattr(owner, attribute, noted)

    def seconds(self) -> dict[str, float]:
        """Seconds in each function, summed over threads."""
        total: dict[str, float] = {}
        for spell in self.spells:
            total[spell.name] = total.get(spell.name, 0.0) + spell.stop - spell.start
        return total

    def between(self, name: str) -> tuple[float, float]:
        """When the first call under `name` began and the last one ended."""
        of_name = [spell for spell in self.spells if spell.name == name]
        return min(s.start for s in of_name), max(s.stop for s in of_name)
