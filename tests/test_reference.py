"""How close a latent is said to be to one without a cache, and the session's results side by side."""

from __future__ import annotations

import json

import pytest
import torch


@pytest.fixture
def compare(pack):
    """The comparison of a latent of ones, off by an error everywhere, with ones."""
    from adacache.nodes.reference import closeness

    def make(error, shape=(1, 4, 3, 2, 2), other=None):
        reference = torch.ones(shape)
        return closeness({"samples": reference + error}, {"samples": reference if other is None else other})

    return make


@pytest.mark.parametrize(
    ("error", "db", "percent", "verdict"),
    [
        (10**-2.5, 50, "0.32", "no difference to be expected in the picture"),
        (0.01, 40, "1", "fine details may differ"),
        (10**-1.5, 30, "3.2", "details differ, the scene stays"),
        (0.1, 20, "10", "much differs"),
        (1.0, 0, "1e+02", "another picture; check that seed and settings are the same"),
    ],
)
def test_the_error_over_the_signal_in_words(compare, error, db, percent, verdict):
    found = compare(error)
    assert found.db == pytest.approx(db, abs=0.01)
    assert found.to_dict() == {"equal": False, "signal_to_error_db": found.db}
    assert found.entry["verdict"] == verdict
    assert found.entry["percent"] == percent.replace("1e+02", "100")


def test_what_is_equal_and_what_cannot_be_compared(compare):
    assert compare(0.0).entry == {"key": "reference_equal"}
    assert json.dumps(compare(0.0).to_dict(), allow_nan=False) == '{"equal": true, "signal_to_error_db": null}'
    assert compare(0.1, other=torch.ones(1, 4, 5, 2, 2)).entry["because"] == "their sizes differ"
    assert compare(float("nan")).entry["because"] == "not every value is finite"
    assert compare(0.1, other=torch.zeros(1, 4, 3, 2, 2)).to_dict()["signal_to_error_db"] is None


def test_video_and_sound_are_one_latent(pack):
    from adacache.nodes.reference import closeness
    from comfy.nested_tensor import NestedTensor

    both = NestedTensor([torch.ones(1, 4, 2, 2, 2), torch.ones(1, 8)])
    off = NestedTensor([torch.ones(1, 4, 2, 2, 2), torch.full((1, 8), 1.1)])
    # 8 of 40 values are off by a tenth.
    assert closeness({"samples": off}, {"samples": both}).db == pytest.approx(26.99, abs=0.01)


def test_the_last_five_results_each_once(pack):
    from adacache.nodes.reference import Session

    def report(seconds, reference=None, runs=(1,)):
        steps = {"computed_steps": 5, "total_steps": 10}
        return {"runs": runs, "preset": "fast", "seconds": seconds, "speedup": 2.0, "reference": reference, **steps}

    session = Session()
    for number in range(6):
        rows = session.add(number, report(float(number)))
    assert [row["took"] for row in rows] == ["1.00 s", "2.00 s", "3.00 s", "4.00 s", "5.00 s"]
    assert session.add("nothing ran", report(9.0, runs=())) == rows
    again = session.add(3, report(3.0, {"equal": True}))
    assert [row["seconds"] for row in again] == [1, 2, 4, 5, 3], "looked at once more, with a reference"
    assert again[-1]["reference"] == {"equal": True}
