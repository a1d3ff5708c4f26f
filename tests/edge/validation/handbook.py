"""Worked examples of MIL-HDBK-1823A as data; the tests that use them name the page that prints the answers.

Department of Defense Handbook, Nondestructive Evaluation System Reliability Assessment, 7 April 2009, approved for
public release. The handbook prints the answers; the data are its files `EXAMPLE 1`, `3` and `6`, which its author
C. Annis gives away with the software mh1823 (7.3.7, folder `csv files`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

# Size in mils and signal, one pair an anomaly.
_EXAMPLE_1 = """
6,192 6,166 7,137 7,97 7,147 8,221 8,148 8,152 9,376 9,568 9,324 9,363 10,87 10,198 10,394 10,413 11,290 11,318
12,50 12,50 12,304 12,414 13,519 13,139 13,342 13,614 13,537 13,370 14,439 14,138 14,50 14,621 14,610 15,509 15,482
15,353 15,260 15,381 15,415 15,548 16,537 16,672 17,352 17,671 17,437 17,435 17,461 17,483 18,599 18,507 18,728
19,344 19,514 19,568 19,843 20,645 20,838 20,563 20,638 21,751 22,736 23,703 24,756 24,731 25,713 27,787 27,763
27,963 28,818 29,777 29,1040 30,753 30,778 31,729 32,811 32,1208 32,864 32,938 33,865 33,853 34,740 35,830 39,1159
41,743 42,1176 45,1079 48,1344 50,1277 50,1335 52,1283 53,1375 65,1189"""

# Length in inches.
_EXAMPLE_3_FOUND = """
0.045 0.08 0.08 0.085 0.09 0.095 0.11 0.111 0.116 0.125 0.125 0.13 0.13 0.137 0.138 0.14 0.141 0.144 0.145 0.15
0.152 0.152 0.155 0.157 0.165 0.167 0.175 0.176 0.179 0.18 0.18 0.182 0.185 0.187 0.187 0.188 0.19 0.194 0.195
0.195 0.2 0.2 0.202 0.205 0.207 0.207 0.207 0.21 0.21 0.21 0.21 0.211 0.212 0.212 0.213 0.215 0.215 0.216 0.216
0.22 0.225 0.227 0.235 0.235 0.235 0.24 0.24 0.24 0.242 0.247 0.25 0.25 0.255 0.257 0.26 0.262 0.262 0.265 0.275
0.3 0.3 0.315 0.317 0.32 0.32 0.32 0.324 0.325 0.345 0.352 0.355 0.407"""
_EXAMPLE_3_MISSED = """
0.019 0.023 0.025 0.025 0.034 0.034 0.05 0.05 0.057 0.065 0.065 0.067 0.067 0.07 0.07 0.07 0.075 0.075 0.079 0.08
0.08 0.082 0.082 0.084 0.085 0.085 0.087 0.09 0.091 0.095 0.097 0.102 0.115 0.117 0.125 0.125 0.125 0.142 0.15
0.155 0.177 0.182"""

# Size in mils, four disks together.
_EXAMPLE_6_FOUND = """
2.54 4.57 7.62 9.4 11.43 12.19 13.97 14.48 16 16.21 20.57 20.75 25.4 31.75 33.02 35.56 36.07 37.08 37.34 38.1 40.13
40.64 40.89 42.77 45.97 46.99 47.5 49.28 50.04 50.8 51.05 55.37 55.88 57.66 58.17 64.77 66.04 66.55 68.07 74.93
77.72 81.79 85.09 91.69 95.76 100.58 106.17 108.97 110.49 113.03 115.82 122.43 124.46 134.62 144.02 166.12"""
_EXAMPLE_6_MISSED = """
1.27 1.4 1.52 1.778 2.29 3.33 3.81 4.32 4.8 5.08 5.59 6.1 6.35 6.35 6.6 6.6 7.11 7.62 8.38 10.16 10.54 11.18 13.21
18.92 20.55 21.59 28.7 32.512 33.02 35.56 43.18 115.82"""


def example_1() -> tuple[Floats, Floats]:
    """Sizes and signals, each (92,): signal response; a decision at 200, ends of the scale at 50 and 1375."""
    sizes, signals = np.array([pair.split(",") for pair in _EXAMPLE_1.split()], np.float64).T
    return sizes, signals


def example_3() -> tuple[Floats, Flags]:
    """Lengths and found, each (134,): hit/miss."""
    return _hit_miss(_EXAMPLE_3_FOUND, _EXAMPLE_3_MISSED)


def example_6() -> tuple[Floats, Flags]:
    """Sizes and found, each (88,): hit/miss."""
    return _hit_miss(_EXAMPLE_6_FOUND, _EXAMPLE_6_MISSED)


def _hit_miss(found: str, missed: str) -> tuple[Floats, Flags]:
    hits, misses = found.split(), missed.split()
    return np.array([*hits, *misses], np.float64), np.arange(len(hits) + len(misses)) < len(hits)
