"""Choose ranks: by variational Bayes, for a share of one layer, for a budget over all layers.

Ranks by energy and by relative error are part of the decompositions themselves (`energy=`, `eps=`).
"""

from keras_tensornet.ranks.budget import Allocation, allocate
from keras_tensornet.ranks.share import rank_for_share
from keras_tensornet.ranks.vbmf import Evbmf, evbmf, evbmf_rank, vbmf_ranks

__all__ = [
    "Allocation",
    "Evbmf",
    "allocate",
    "evbmf",
    "evbmf_rank",
    "rank_for_share",
    "vbmf_ranks",
]
