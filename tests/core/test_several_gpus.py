"""What docs/several-gpus.md computes on paper."""

from __future__ import annotations

from benchmarks import several_gpus as paper


def test_the_document_has_what_the_formulas_give():
    document = (paper.DOCS / "several-gpus.md").read_text("utf-8")
    assert paper.with_table(document) == document, "run python -m benchmarks.several_gpus"
    assert (paper.DOCS / "several-gpus.svg").read_text("utf-8") == paper.picture()


def test_a_plan_saves_what_it_skips_whatever_a_step_is_made_of():
    for gpus in (2, 4, 8):
        for bandwidth in paper.LINKS.values():
            step, talk = paper.step_seconds(gpus, bandwidth, pairs=False)
            assert 0 < talk < step
            saved = paper.hours(step, 50, False) / paper.hours(step, 25, True)
            assert 1.9 < saved < 2


def test_more_gpus_are_faster_and_pay_more_for_talking():
    steps = [paper.step_seconds(gpus, paper.LINKS["PCIe"], pairs=False) for gpus in paper.GPUS]
    assert [step for step, _ in steps] == sorted((step for step, _ in steps), reverse=True)
    shares = [talk / step for step, talk in steps]
    assert shares == sorted(shares)
