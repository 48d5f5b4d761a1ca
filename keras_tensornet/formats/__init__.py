"""The table of formats: each is a few lines of labels and one decomposition.

A new format is one function of labels, one decomposition, one row here and one row in the tests.
"""

from keras_tensornet import validation
from keras_tensornet.formats import chains, factors, trees
from keras_tensornet.formats.base import Format, Rank

FORMATS: dict[str, Format] = {
    format.name: format
    for format in (
        Format("tr", "tensor ring", chains.tensor_ring, chains.decompose_ring, trial_sweeps=2),
        Format(
            "tt",
            "tensor train",
            chains.tensor_train,
            chains.decompose_train,
            spatial="separate",
            tensorize=False,
            rank_argument=chains.inner_ranks,
        ),
        Format(
            "ttm",
            "tensor-train matrix",
            chains.tt_matrix,
            chains.decompose_train,
            rank_argument=chains.inner_ranks,
        ),
        Format(
            "cp",
            "canonical polyadic",
            factors.canonical,
            factors.decompose_canonical,
            spatial="separate",
            tensorize=False,
            rank_argument=factors.term_rank,
            trial_sweeps=20,
        ),
        Format(
            "tucker",
            "Tucker",
            factors.tucker,
            factors.decompose_tucker,
            tensorize=False,
            rank_argument=factors.tucker_rank,
            dense_modes=2,
            trial_sweeps=2,
        ),
        Format(
            "bt",
            "block-term Tucker",
            factors.block_term,
            factors.decompose_blocks,
            tensorize=False,
            rank_argument=factors.block_rank,
            trial_sweeps=2,
        ),
        Format(
            "ht",
            "hierarchical Tucker",
            trees.hierarchical_tucker,
            trees.decompose_tree,
            tensorize=False,
        ),
    )
}


def get(name: str | None) -> Format:
    """The format of that name.

    Raises:
        ValueError: if there is no such format, or no name.
    """
    return FORMATS[validation.one_of("format", name, tuple(FORMATS))]


__all__ = ["FORMATS", "Format", "Rank", "get"]
