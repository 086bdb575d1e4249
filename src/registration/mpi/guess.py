"""A guess of m and u: where training starts, and what it keeps where no pair shows better.

m is how often the records of one person agree at a level, u how often those of two do. Experience
and the literature on errors in names and dates, not the estimate of any one population.
"""

from typing import Final

Odds = dict[str, dict[str, float]]
"""A probability by field and level."""

M: Final[Odds] = {
    "family": {"exact": 0.85, "close": 0.06, "swapped": 0.025, "crossed": 0.005, "part": 0.01,
               "similar": 0.01, "different": 0.02, "sound": 0.018, "foreign": 0.002},
    "given": {"exact": 0.82, "nickname": 0.02, "close": 0.06, "swapped": 0.03, "part": 0.02,
              "similar": 0.01, "different": 0.02, "sound": 0.018, "foreign": 0.002},
    "birthDate": {"exact": 0.88, "swapped": 0.03, "typo": 0.04, "near": 0.02, "partial": 0.01,
                  "different": 0.02},
    "gender": {"exact": 0.98, "different": 0.02},
    "identifier": {"exact": 0.9, "typo": 0.07, "different": 0.03},
    "telecom": {"exact": 0.7, "typo": 0.05, "different": 0.25},
    "houseNumber": {"exact": 0.8, "close": 0.1, "different": 0.1},
    "street": {"exact": 0.75, "close": 0.12, "swapped": 0.03, "different": 0.1},
    "place": {"exact": 0.75, "close": 0.12, "swapped": 0.03, "different": 0.1},
    "city": {"exact": 0.8, "close": 0.1, "different": 0.1},
    "postalCode": {"exact": 0.8, "close": 0.1, "different": 0.1},
    "state": {"exact": 0.85, "close": 0.05, "different": 0.1},
}  # fmt: skip
U: Final[Odds] = {
    "family": {"exact": 0.002, "close": 0.004, "swapped": 1e-5, "crossed": 0.00299, "part": 0.002,
               "similar": 0.02, "different": 0.949, "sound": 0.001, "foreign": 0.019},
    "given": {"exact": 0.004, "nickname": 0.001, "close": 0.004, "swapped": 0.001, "part": 0.002,
              "similar": 0.02, "different": 0.948, "sound": 0.001, "foreign": 0.019},
    "birthDate": {"exact": 5e-5, "swapped": 1e-5, "typo": 5e-4, "near": 0.005, "partial": 0.002,
                  "different": 0.99244},
    "gender": {"exact": 0.5, "different": 0.5},
    "identifier": {"exact": 5e-9, "typo": 1e-6, "different": 0.999998995},
    "telecom": {"exact": 1e-5, "typo": 1e-5, "different": 0.99998},
    "houseNumber": {"exact": 0.01, "close": 0.1, "different": 0.89},
    "street": {"exact": 0.001, "close": 0.004, "swapped": 1e-5, "different": 0.99499},
    "place": {"exact": 0.001, "close": 0.004, "swapped": 1e-5, "different": 0.99499},
    "city": {"exact": 0.005, "close": 0.005, "different": 0.99},
    "postalCode": {"exact": 0.001, "close": 0.01, "different": 0.989},
    "state": {"exact": 0.2, "close": 0.02, "different": 0.78},
}  # fmt: skip
