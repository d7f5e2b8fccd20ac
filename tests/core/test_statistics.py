"""What a run notes about each condition, worked out by hand."""

from __future__ import annotations

from adacache_core.residual_cache import Storage
from adacache_core.statistics import StepRecord

from .doubling import LAYOUT, DoublingModel, ones
from .test_run import SIGMAS, new_run


def counted(*calls: tuple[list[int], bool]) -> StepRecord:
    record = StepRecord(0, 1.0, computed=True, reason="schedule")
    for conditions, computed in calls:
        record.count(conditions, computed)
    return record


def test_a_letter_per_condition():
    record = counted(([0, 1], False), ([3], True))
    assert (record.by_condition, record.calls, record.computed_calls) == ("ss-c", 3, 1)
    assert counted(([2], True)).by_condition == "--c"


def test_one_computed_call_of_a_step_makes_the_condition_computed():
    assert counted(([0], True), ([0], False)).by_condition == "c"
    assert counted(([0], False), ([0], True)).by_condition == "c"


def test_only_the_new_condition_computes_at_a_planned_skip():
    """Steps 0 and 1 compute, then every fourth; a condition comes up at step 3, whose first distance step 4 gives."""
    model, run = DoublingModel(), new_run()
    for step in range(7):
        for key in ("old", "new") if 3 <= step <= 5 else ("old",):
            with run.call(model, LAYOUT, SIGMAS[step], (key,)):
                model(ones())
    steps = run.finish().steps
    assert [record.by_condition for record in steps] == ["c", "c", "s", "sc", "cc", "ss", "s"]
    assert [record.computed for record in steps] == [True, True, False, True, True, False, False]
    assert [record.computed_calls for record in steps] == [1, 1, 0, 1, 2, 0, 0]
    assert steps[3].reason == "nothing cached for a condition"


def test_repayment_counts_as_in_force_with_hidden_storage_only():
    assert new_run(repaid=0.5).statistics.repaid == 0.5
    assert new_run().statistics.repaid == 0
    assert new_run(repaid=0.5, storage=Storage("output")).statistics.repaid == 0
