"""Every op in plain torch, float64-capable: the documentation of what it computes, and its test oracle.

Same names and arguments as the ops themselves, less the checks; written to be read, not to be fast.
"""

from .crop_resize import crop_resize, crop_resize_pair
from .info_nce import multi_positive_info_nce
from .overlap import overlap_positives, overlap_rate, pairwise_overlap_rate
from .sampling import philox4x32_10, sample_view_pairs

__all__ = [
    "crop_resize",
    "crop_resize_pair",
    "multi_positive_info_nce",
    "overlap_positives",
    "overlap_rate",
    "pairwise_overlap_rate",
    "philox4x32_10",
    "sample_view_pairs",
]
