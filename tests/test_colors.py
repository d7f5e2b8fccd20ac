"""The measures of colour, on colours whose values are known."""

from __future__ import annotations

import pytest
from colors import BLINDNESS, contrast, difference

BLACK, WHITE, GREY, RED, GREEN = (0, 0, 0), (255, 255, 255), (119, 119, 119), (200, 60, 30), (110, 120, 20)


def test_contrast():
    assert contrast(BLACK, WHITE) == pytest.approx(21)
    assert contrast(WHITE, GREY) == contrast(GREY, WHITE) == pytest.approx(4.48, abs=0.005)
    assert contrast(RED, RED) == 1


def test_differences():
    assert difference(BLACK, WHITE) == pytest.approx(100)
    assert difference((255, 0, 0), (0, 255, 0)) == pytest.approx(170.6, abs=0.1)
    assert difference(RED, RED) == 0


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_greys_look_the_same_to_all(blindness):
    assert difference(GREY, GREY, blindness) == 0
    assert difference(BLACK, WHITE, blindness) == pytest.approx(100, abs=0.01)


def test_red_and_green_are_alike_to_some():
    assert difference(RED, GREEN) > 60
    assert difference(RED, GREEN, "deuteranopia") < difference(RED, GREEN) / 3
    assert difference(RED, GREEN, "tritanopia") > 40
