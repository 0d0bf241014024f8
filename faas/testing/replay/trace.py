"""What is replayed: for each function the minutes in which it was called, and the memory it was allocated."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TraceFunction:
    """``active`` are the minutes with at least one call, ascending; ``counts`` how many calls each of them had."""

    name: str
    trigger: str
    memory_mb: float
    active: tuple[int, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Trace:
    """``minutes`` is how long it lasts; every active minute is in ``range(minutes)``."""

    name: str
    minutes: int
    functions: tuple[TraceFunction, ...]

    @property
    def invocations(self) -> int:
        return sum(sum(f.counts) for f in self.functions)

    def window(self, first: int, last: int) -> Trace:
        """The minutes ``first`` <= m < ``last``, without the functions that are not called in them."""
        functions = []
        for function in self.functions:
            pairs = [(m - first, n) for m, n in zip(function.active, function.counts, strict=True) if first <= m < last]
            if pairs:
                active, counts = zip(*pairs, strict=True)
                functions.append(TraceFunction(function.name, function.trigger, function.memory_mb, active, counts))
        return Trace(f"{self.name}[{first}:{last}]", last - first, tuple(functions))

    def only(self, indexes: list[int]) -> Trace:
        """The functions at these places."""
        return Trace(self.name, self.minutes, tuple(self.functions[i] for i in indexes))
