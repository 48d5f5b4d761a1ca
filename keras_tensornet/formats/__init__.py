"""The table of formats: each is a few lines of labels and one decomposition.

A new format is one function of labels, one decomposition, one row here and one row in the tests.
"""

from keras_tensornet import decompositions, validation
from keras_tensornet.formats import chains, factors, trees
from keras_tensornet.formats.base import Format, Rank

# Names that stand for something else where a format can be named.
RESERVED = ("auto", "custom", "tbasis")
FORMATS: dict[str, Format] = {
    format.name: format
    for format in (
        Format(
            "tr",
            "tensor ring",
            chains.tensor_ring,
            chains.decompose_ring,
            trial_sweeps=2,
            whole=("conv",),
            round=decompositions.tr_round,
            auto_order=2,
        ),
        Format(
            "tt",
            "tensor train",
            chains.tensor_train,
            chains.decompose_train,
            spatial="separate",
            tensorize=False,
            rank_argument=chains.inner_ranks,
            whole=("dense",),
            round=decompositions.tt_round,
            nested_values=chains.train_values,
            vbmf_rank=chains.train_vbmf_rank,
            auto_order=0,
            truncation=chains.one_cut,
        ),
        Format(
            "ttm",
            "tensor-train matrix",
            chains.tt_matrix,
            chains.decompose_train,
            rank_argument=chains.inner_ranks,
            round=decompositions.tt_round,
            nested_values=chains.train_values,
            auto_order=4,
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
            whole=("dense",),
            ranks_by_trial=True,
            auto_order=3,
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
            whole=("dense",),
            vbmf_rank=factors.tucker_vbmf_rank,
            auto_order=1,
            truncation=factors.filters_cut,
        ),
        Format(
            "bt",
            "block-term Tucker",
            factors.tucker_blocks,
            factors.decompose_blocks,
            tensorize=False,
            rank_argument=factors.block_rank,
            trial_sweeps=2,
            ranks_by_trial=True,
            trial_rank=factors.two_blocks,
        ),
        Format(
            "ht",
            "hierarchical Tucker",
            trees.tucker_tree,
            trees.decompose_tree,
            tensorize=False,
        ),
    )
}
# The format of a layer whose user names none.
DEFAULT = "tr"


def get(name: str | None) -> Format:
    """The format of that name.

    Raises:
        ValueError: if there is no such format, or no name.
    """
    return FORMATS[validation.one_of("format", name, tuple(FORMATS))]


def register(format: Format) -> Format:
    """Add a format of your own to the table, under which all layers and tools know it by name.

    A saved model that uses it loads where the format has been registered before.

    Args:
        format: see `Format`; its name must be new.

    Returns:
        The format.

    Raises:
        TypeError: if it is no `Format`.
        ValueError: if its name is taken, or has a meaning of its own where formats are named.
    """
    if not isinstance(format, Format):
        raise TypeError(
            "Only a `keras_tensornet.formats.Format` can be registered. Received: "
            f"{format!r} of type {type(format).__name__}."
        )
    taken = (*FORMATS, *RESERVED)
    if format.name in taken or not format.name.isidentifier():
        raise ValueError(
            "The name of a format must be an identifier that is not in use. Received: "
            f"{format.name!r}; in use: {', '.join(taken)}."
        )
    FORMATS[format.name] = format
    return format


def automatic() -> tuple[str, ...]:
    """The names of the formats that `format="auto"` tries, in their order."""
    places = {name: format.auto_order for name, format in FORMATS.items()}
    return tuple(
        sorted((name for name in places if places[name] is not None), key=lambda n: places[n] or 0)
    )


__all__ = ["DEFAULT", "FORMATS", "Format", "Rank", "automatic", "get", "register"]
