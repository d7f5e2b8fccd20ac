"""Sentences of the inspector and of the log, in every language, and numbers as people write them.

A sentence is an entry, ``{"key": ..., name: value, ...}``: the key names a text of ``locales/*/main.json``, the values
fill its placeholders. So every language has the same sentences, here and in the browser.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Entry = dict[str, Any]

_LOCALES = Path(__file__).parents[1] / "locales"
_WORDS = json.loads((_LOCALES / "en" / "main.json").read_text(encoding="utf-8"))["adacache"]


def say(entry: Entry | str) -> str:
    """An entry in English; text stays as it is."""
    return entry if isinstance(entry, str) else _WORDS[entry["key"]].format(**entry)


def human_bytes(count: int) -> str:
    """``25165824`` as ``"24.0 MiB"``."""
    if count < 2**20:
        return f"{count / 2**10:.0f} KiB"
    return f"{count / 2**20:.1f} MiB" if count < 2**30 else f"{count / 2**30:.2f} GiB"


def human_seconds(seconds: float) -> str:
    """``0.0123`` as ``"12 ms"``, ``95`` as ``"1 min 35 s"``."""
    if seconds < 0.1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def roughly(seconds: float) -> str:
    """An estimate, in two digits: ``6.25`` as ``"6.2 s"``, ``95`` as ``"1 min 35 s"``."""
    return f"{float(f'{seconds:.2g}'):g} s" if 0.1 <= seconds < 59.5 else human_seconds(seconds)
