"""How close a latent is to one that was sampled without a cache, and the session's last results side by side."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .words import Entry, human_seconds

_ROWS = 5
# What to expect of the picture from so many dB on. Latents are not pixels: these are expectations, and say so.
_VERDICTS = (
    (45.0, "no difference to be expected in the picture"),
    (35.0, "fine details may differ"),
    (25.0, "details differ, the scene stays"),
    (15.0, "much differs"),
    (-math.inf, "another picture; check that seed and settings are the same"),
)


@dataclass(frozen=True)
class Closeness:
    """Signal over error in dB, infinite where not a bit differs; None with a reason where they cannot be compared."""

    db: float | None
    because: str | None = None

    @property
    def entry(self) -> Entry:
        """In words that a person can use."""
        if self.db is None:
            return {"key": "reference_unlike", "because": self.because}
        if self.db == math.inf:
            return {"key": "reference_equal"}
        verdict = next(words for least, words in _VERDICTS if self.db >= least)
        percent = f"{float(f'{100 * 10 ** (-self.db / 20):.2g}'):g}"
        return {"key": "reference_db", "db": f"{self.db:.1f}", "verdict": verdict, "percent": percent}

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe: ``equal``, and ``signal_to_error_db``, None where there is no number."""
        finite = self.db is not None and math.isfinite(self.db)
        return {"equal": self.db == math.inf, "signal_to_error_db": self.db if finite else None}


def closeness(latent: dict[str, Any], reference: dict[str, Any]) -> Closeness:
    """Compare two of ComfyUI's latents; those of video and sound have a tensor for each."""
    pairs = list(zip(_tensors(latent), _tensors(reference), strict=False))
    if len(_tensors(latent)) != len(_tensors(reference)) or any(one.shape != other.shape for one, other in pairs):
        return Closeness(None, "their sizes differ")
    signal = sum(float(other.double().square().sum()) for _, other in pairs)
    error = sum(float((one.double() - other.to(one.device).double()).square().sum()) for one, other in pairs)
    if not math.isfinite(signal + error):
        return Closeness(None, "not every value is finite")
    if error == 0:
        return Closeness(math.inf)
    return Closeness(10 * math.log10(signal / error) if signal else -math.inf)


def _tensors(latent: dict[str, Any]) -> list[Tensor]:
    samples = latent["samples"]
    return list(getattr(samples, "tensors", [samples]))


class Session:
    """The last results that inspectors have shown, as rows of a table, newest last."""

    def __init__(self) -> None:
        self._rows: deque[tuple[Hashable, dict[str, Any]]] = deque(maxlen=_ROWS)

    def add(self, result: Hashable, report: dict[str, Any]) -> list[dict[str, Any]]:
        """Take a result in, in place of what was said of it before; returns the rows."""
        names = ("preset", "computed_steps", "total_steps", "seconds", "speedup", "reference")
        if report["runs"]:
            row = {name: report[name] for name in names} | {"took": human_seconds(report["seconds"])}
            others = [other for other in self._rows if other[0] != result]
            self._rows = deque([*others, (result, row)], maxlen=_ROWS)
        return [row for _, row in self._rows]
