"""Finished samples on disk, and the rows that they make together."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

SAME = ("runner", "model", "sampling", "method", "setting")  # what the samples of a row have in common
Record = dict[str, Any]


class Records:
    """Finished samples, one a line, so that a run goes on where it stopped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.all: list[Record] = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        self._done = {self._key(record) for record in self.all}

    @staticmethod
    def _key(record: Record) -> str:
        return json.dumps([record[name] for name in (*SAME, "seed")])

    def missing(self, facts: Record) -> bool:
        """Whether there is no record of this sample yet."""
        return self._key(facts) not in self._done

    def add(self, record: Record) -> None:
        """Keep a record, on disk at once."""
        self.all.append(record)
        self._done.add(self._key(record))
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def worst_tenth(values: list[float]) -> float:
    """Mean of the lowest tenth, of one at least."""
    return statistics.mean(sorted(values)[: max(1, round(len(values) / 10))])


def row(records: list[Record]) -> Record:
    """One row of the table: the same method, setting, model and sampling over many scenes."""
    first = records[0]
    values = {name: [record[name] for record in records] for name in ("psnr", "ssim", "computed_steps")}
    truths = [record["truth_psnr"] for record in records if record["truth_psnr"] is not None]
    # Still scenes have no motion to lose.
    moving = [record["motion_ratio"] for record in records if record["motion"] != "still"]
    fast = [record["psnr"] for record in records if record["motion"] == "fast"]
    return {
        "set": first["set"],
        "runner": first["runner"],
        "method": first["method"],
        "setting": first["setting"],
        "model": first["model"],
        **first["sampling"],
        "computed_steps": statistics.mean(values["computed_steps"]),
        "speedup": statistics.median(record["uncached_seconds"] / record["seconds"] for record in records),
        "psnr_mean": statistics.mean(values["psnr"]),
        "psnr_worst_decile": worst_tenth(values["psnr"]),
        "psnr_fast_motion": statistics.mean(fast) if fast else None,
        "truth_psnr": statistics.mean(truths) if truths else None,
        "truth_worst": worst_tenth(truths) if truths else None,
        "ssim_mean": statistics.mean(values["ssim"]),
        "temporal_error": statistics.mean(record["temporal_error"] for record in records),
        "motion_ratio": statistics.mean(moving) if moving else None,
        "cache_bytes": first["cache_bytes"],
        "videos": len(records),
    }


def rows(records: list[Record]) -> list[Record]:
    """All rows; of one set, runner and model from the fastest on."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[json.dumps([record[name] for name in ("set", *SAME)])].append(record)
    return sorted(
        map(row, groups.values()),
        key=lambda r: (r["set"], r["runner"], r["model"], str(r["steps"]), r["computed_steps"]),
    )
