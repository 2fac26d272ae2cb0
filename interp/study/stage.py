"""What a study is doing while none of its units advances: a label that knows how far that is."""

from __future__ import annotations

__all__ = ["Stage"]


class Stage(str):
    """A label of :data:`~interp.study.workers.StudyProgress`, for work that comes before the first unit.

    Example:
        >>> stage = interp.study.Stage("second moments", 512, 2048, "tokens")
        >>> print(stage, stage.done / stage.total)
        second moments: 512 of 2048 tokens 0.25

    Args:
        name: What is being done.
        done, total: How much of it, and of how much.
        unit: What is counted.
    """

    name: str
    done: int
    total: int
    unit: str

    def __new__(cls, name: str, done: int, total: int, unit: str) -> Stage:
        """A label such as ``second moments: 512 of 2048 tokens``."""
        stage = super().__new__(cls, f"{name}: {done} of {total} {unit}")
        stage.name, stage.done, stage.total, stage.unit = name, done, total, unit
        return stage

    def __getnewargs__(self) -> tuple[str, int, int, str]:  # type: ignore[override]
        """So that it travels between processes."""
        return self.name, self.done, self.total, self.unit
