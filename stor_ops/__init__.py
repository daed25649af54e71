"""Fused kernels for self-supervised video learning.

Exact view pairs, batched spatio-temporal crop-and-resize with the overlap of the views, and a
multi-positive InfoNCE that never holds the N x N matrix; `stor_ops.nn` has it as a module.
`stor_ops.reference` has every op in plain torch; ``python -m stor_ops.info`` tells what this
installation can do.
"""

from . import nn, reference
from .crop_resize import crop_resize, crop_resize_pair
from .info_nce import multi_positive_info_nce
from .overlap import overlap_positives, overlap_rate, pairwise_overlap_rate
from .sampling import sample_view_pairs
from .views import OverlapRate, ViewPairs, Views

__version__ = "0.1.0"

__all__ = [
    "OverlapRate",
    "ViewPairs",
    "Views",
    "crop_resize",
    "crop_resize_pair",
    "multi_positive_info_nce",
    "nn",
    "overlap_positives",
    "overlap_rate",
    "pairwise_overlap_rate",
    "reference",
    "sample_view_pairs",
]
