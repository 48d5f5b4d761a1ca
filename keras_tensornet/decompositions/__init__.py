"""Decompose a dense kernel into the cores of a tensor network, in float64 NumPy.

Every function takes an array-like and one of fixed ranks, a relative error `eps` and a share of
`energy`, and returns a list of arrays in the caller's dtype. The layouts:

- `tt_svd`: cores (r_{k-1}, n_k, r_k) with r_0 = r_d = 1.
- `tr_svd`, `tr_als`: the same with r_d = r_0, the bond that closes the ring.
- `ttm_svd`: cores (r_{k-1}, i_k, o_k, r_k); `grouped_tt_svd`: (r_{k-1}, *axes of group k, r_k).
- `cp_als`: factors (n_k, rank), the weights shared evenly between them.
- `hosvd`, `hooi`: [core (r_1, ..., r_d), factor (n_1, r_1), ...].
- `block_term`: [core (b, r_1, ..., r_d), factor (b, n_1, r_1), ...].
- `hierarchical_tucker`: leaves (n_k, r_k), transfer tensors, root: the order of `dimension_tree`.
"""

from keras_tensornet.decompositions.blocks import block_term
from keras_tensornet.decompositions.cp import cp_als
from keras_tensornet.decompositions.ring_als import tr_als
from keras_tensornet.decompositions.rings import tr_svd
from keras_tensornet.decompositions.rounding import tr_round, tt_round
from keras_tensornet.decompositions.svd import rank_for_energy, rank_for_error, truncated_svd
from keras_tensornet.decompositions.trains import (
    grouped_tt_svd,
    max_tt_ranks,
    tt_svd,
    ttm_svd,
)
from keras_tensornet.decompositions.trees import dimension_tree, hierarchical_tucker
from keras_tensornet.decompositions.tucker import hooi, hosvd

__all__ = [
    "block_term",
    "cp_als",
    "dimension_tree",
    "grouped_tt_svd",
    "hierarchical_tucker",
    "hooi",
    "hosvd",
    "max_tt_ranks",
    "rank_for_energy",
    "rank_for_error",
    "tr_als",
    "tr_round",
    "tr_svd",
    "truncated_svd",
    "tt_round",
    "tt_svd",
    "ttm_svd",
]
