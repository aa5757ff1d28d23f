"""Every method before the same images, under the same rules: scores from artifacts, metrics, paired differences, costs.

Scores are read, not made again: `read` the artifacts, restrict rows to common images with `only`, then `measure` them
one by one and compare them with `paired`.
"""

from mvtec_ad.comparison.measures import TEST_PART, by_defect, cost, measure, report
from mvtec_ad.comparison.pairs import holm, paired, wins
from mvtec_ad.comparison.pictures import common_part, masks_for, trivial
from mvtec_ad.comparison.scored import Scored, only, read

__all__ = [
    "TEST_PART",
    "Scored",
    "by_defect",
    "common_part",
    "cost",
    "holm",
    "masks_for",
    "measure",
    "only",
    "paired",
    "read",
    "report",
    "trivial",
    "wins",
]
