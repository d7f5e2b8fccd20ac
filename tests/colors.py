"""How colours look: contrast, and to the colour-blind. Colours are red, green and blue in 0 to 255."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Color = Sequence[float]

# Machado, Oliveira and Fernandes (2009), table 1, severity 1: what of linear red, green and blue is left.
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
# CIE's XYZ of sRGB's primaries, over that of its white.
_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def _linear(color: Color) -> np.ndarray:
    parts = np.asarray(color, dtype=float) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def contrast(one: Color, other: Color) -> float:
    """WCAG's contrast, 1 to 21: text needs 4.5, shapes need 3."""
    darker, lighter = sorted(float(_XYZ[1] @ _linear(color)) for color in (one, other))
    return (lighter + 0.05) / (darker + 0.05)


def difference(one: Color, other: Color, blindness: str = "none") -> float:
    """CIE76's distance of two colours as the colour-blind see them; 2.3 is just noticeable, black to white is 100."""
    return float(np.linalg.norm(_lab(one, blindness) - _lab(other, blindness)))


def _lab(color: Color, blindness: str) -> np.ndarray:
    seen = np.clip(BLINDNESS[blindness] @ _linear(color), 0, 1)
    ratios = (_XYZ @ seen) / _XYZ.sum(1)
    x, y, z = np.where(ratios > (6 / 29) ** 3, np.cbrt(ratios), ratios / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])
