from __future__ import annotations

import pytest

from adacache_core import ConfigurationError
from adacache_core.paper.codebook import PAPER_FAST, PAPER_SLOW, Codebook, codebook_for, nearest


@pytest.mark.parametrize(
    ("distance", "rate"), [(0.0, 6), (0.0799, 6), (0.08, 5), (0.39, 2), (0.40, 1), (1.0, 1), (9.0, 1)]
)
def test_the_first_threshold_above_the_distance_gives_the_rate(distance, rate):
    assert PAPER_FAST[0].rate(distance) == rate


def test_parse_reads_what_the_node_shows():
    assert Codebook.parse(" 0.08:6, 0.16:5\n1:1, ").entries == ((0.08, 6), (0.16, 5), (1.0, 1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the codebook is empty"),
        ("0.08:6, 0.24:4, 0.16:5", r"thresholds must ascend, got 0\.16 after 0\.24 \(entry 3\)"),
        ("0.08:6, 0.08:5", r"must ascend, got 0\.08 after 0\.08 \(entry 2\)"),
        ("0:6, 1:1", r"must be above 0, got 0 \(entry 1\)"),
        ("nan:6", r"must be above 0, got nan \(entry 1\)"),
        ("0.08:0", r"at least 1, got 0 \(entry 1\)"),
        ("0.08:-2, 1:1", r"at least 1, got -2 \(entry 1\)"),
        ("0.08:1.5", r"entry 1 is '0\.08:1\.5', expected threshold:rate with a whole rate"),
        ("0.08:6, fast", r"entry 2 is 'fast'"),
        ("0.08=6", r"entry 1 is '0\.08=6'"),
    ],
)
def test_malformed_codebooks_say_what_was_met_and_how_to_write_one(text, message):
    with pytest.raises(ConfigurationError, match=message):
        Codebook.parse(text)


def test_the_example_in_the_messages_is_valid():
    with pytest.raises(ConfigurationError) as error:
        Codebook.parse("")
    Codebook.parse(str(error.value).split('"')[1])


def test_scaling_halves_thresholds_and_doubles_rates_for_twice_the_steps():
    scaled = Codebook(((0.08, 6), (1.0, 1)), steps=30).for_steps(60)
    assert scaled == Codebook(((0.04, 12), (0.5, 2)), steps=60)
    assert Codebook(((0.08, 6), (1.0, 1)), steps=30).for_steps(5).entries[1] == (6.0, 1), "a rate never drops under 1"


def test_published_step_counts_get_the_published_numbers():
    assert nearest(PAPER_FAST, 30) is PAPER_FAST[0]
    assert nearest(PAPER_FAST, 100) is PAPER_FAST[1]
    assert nearest(PAPER_FAST, 50).entries == PAPER_FAST[0].for_steps(50).entries
    assert nearest(PAPER_FAST, 60).entries == PAPER_FAST[1].for_steps(60).entries
    assert nearest(PAPER_SLOW, 100).entries[0] == pytest.approx((0.024, 10))


def test_presets_name_the_published_codebooks_and_a_custom_one_is_used_as_it_is():
    assert codebook_for("paper-fast", 30) is PAPER_FAST[0]
    assert codebook_for("paper-slow", 30) is PAPER_SLOW[0]
    custom = Codebook(((0.5, 2),))
    assert codebook_for("custom", 77, custom) is custom
    with pytest.raises(ConfigurationError, match='preset "custom" needs a codebook'):
        codebook_for("custom", 30)
