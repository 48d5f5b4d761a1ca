"""The search space as data: which formats, which ranges, one value for all layers or one for each.

A space is conditional on the format. Its hyperparameters are named after the format and the group
of layers that they hold for: "tr_rank", "tt_energy/conv2", "tbasis_size".
"""

from __future__ import annotations

import numbers
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from keras_tensornet import formats, validation
from keras_tensornet.decompositions.shares import NORMS, energy_share

TBASIS = "tbasis"
ALL_LAYERS = ""
STAGE = re.compile(r"^(?:.*?/)?((?:stage|block|group|layer|conv)_?\d+)")


@dataclass(frozen=True)
class Choice:
    """One point of the space.

    Attributes:
        format: name of a format, or "tbasis".
        by: "rank" or "energy".
        values: the rank or energy of each group of layers.
        size, rank: of the basis; None for other formats.
    """

    format: str
    by: str = "rank"
    values: Mapping[str, float] = field(default_factory=dict)
    size: int | None = None
    rank: int | None = None


@dataclass(frozen=True)
class Space:
    """Checked ranges: tuples `(low, high)` with both ends included, or lists of values.

    Attributes:
        formats: names of formats, "tbasis" among them or not.
        rank: of cores, and of the basis.
        energy: searched in place of ranks for trained models, or None to search ranks there too.
        basis_size: number of tensors of the basis.
        energy_norm: what an energy is a share of, "frobenius" or "nuclear".
    """

    formats: tuple[str, ...]
    rank: tuple[int, int] | list[int]
    energy: tuple[float, float] | list[float] | None
    basis_size: tuple[int, int] | list[int]
    energy_norm: str = "frobenius"

    @classmethod
    def of(
        cls,
        names: str | Iterable[str],
        rank: tuple[int, int],
        energy: tuple[float, float] | None,
        basis_size: tuple[int, int],
        energy_norm: str = "frobenius",
    ) -> Space:
        """Check the arguments of a hypermodel.

        Raises:
            TypeError: if one is of another kind.
            ValueError: if the space is empty or a value is out of range.
        """
        names = (names,) if isinstance(names, str) else tuple(names)
        if not names:
            raise ValueError(
                "The search space is empty: `formats` must name at least one format. Received: "
                "formats=(). Use for example formats=('tr', 'tt')."
            )
        for name in names:
            validation.one_of("formats", name, (*formats.FORMATS, TBASIS))
        return cls(
            tuple(dict.fromkeys(names)),
            _range("rank", rank, validation.positive_int),
            None if energy is None else _range("energy", energy, validation.fraction),
            _range("basis_size", basis_size, validation.positive_int),
            validation.one_of("energy_norm", energy_norm, NORMS),
        )

    def choose(self, hp: Any, groups: Iterable[str], trained: bool) -> Choice:
        """Declare the hyperparameters, conditional on the format, and read the chosen ones.

        Args:
            hp: KerasTuner's `HyperParameters`.
            groups: names of the groups of layers; `ALL_LAYERS` for one value for all.
            trained: whether energy thresholds have a meaning.
        """
        groups = tuple(dict.fromkeys(groups))
        chosen_format = hp.Choice("format", list(self.formats))
        choices = {}
        for name in self.formats:
            with hp.conditional_scope("format", [name]):
                choices[name] = self._choice(hp, name, groups, trained)
        return choices[chosen_format]

    def _choice(self, hp: Any, name: str, groups: tuple[str, ...], trained: bool) -> Choice:
        if name == TBASIS:
            size = _integer(hp, "tbasis_size", self.basis_size)
            return Choice(name, size=size, rank=_integer(hp, "tbasis_rank", self.rank))
        if trained and self.energy is not None and not formats.get(name).ranks_by_trial:
            values = {g: _number(hp, _named(f"{name}_energy", g), self.energy) for g in groups}
            shares = {
                group: energy_share(value, self.energy_norm) for group, value in values.items()
            }
            return Choice(name, "energy", shares)
        values = {group: _integer(hp, _named(f"{name}_rank", group), self.rank) for group in groups}
        return Choice(name, "rank", values)


def group_names(per_layer: Any, paths: Iterable[str]) -> dict[str, str]:
    """The group of every layer.

    Args:
        per_layer: False for one group, True for one a layer, "stage" for `stage_of`, or a function
            of the path.
        paths: of the layers.
    """
    if per_layer is False:
        return dict.fromkeys(paths, ALL_LAYERS)
    if per_layer is True:
        return {path: path for path in paths}
    if per_layer == "stage":
        return {path: stage_of(path) for path in paths}
    return {path: str(per_layer(path)) for path in paths}


def check_per_layer(per_layer: Any) -> bool | str | Callable[[str], str]:
    """Return the argument, or raise an error that says what it may be."""
    if isinstance(per_layer, bool) or per_layer == "stage" or callable(per_layer):
        return per_layer
    raise ValueError(
        "`per_layer` must be False (one value for all layers), True (one a layer), 'stage' or a "
        f"function from a layer's path to the name of its group. Received: per_layer={per_layer!r}."
    )


def stage_of(path: str) -> str:
    """The stage that a layer's path names, such as "stage2"; the whole path where it names none.

    >>> stage_of("stage2_block1_conv2"), stage_of("fc1")
    ('stage2', 'fc1')
    """
    found = STAGE.match(path)
    return found[1] if found else path


def _range(name: str, value: Any, check: Any) -> tuple[Any, ...] | list[Any]:
    if isinstance(value, list):
        if not value:
            raise ValueError(
                f"The search space is empty: a list of values for `{name}` must hold at least one. "
                f"Received: {name}=[]."
            )
        checked = (check(f"{name}[{place}]", entry) for place, entry in enumerate(value))
        return sorted(set(checked))
    if isinstance(value, numbers.Real):
        value = (value, value)
    if not isinstance(value, tuple) or len(value) != 2:
        raise TypeError(
            f"`{name}` must be a tuple (low, high), a list of the values to choose from, or one "
            f"number, which keeps it fixed. Received: {name}={value!r}."
        )
    low, high = (check(f"{name}[{end}]", entry) for end, entry in enumerate(value))
    if low > high:
        raise ValueError(
            f"The search space is empty: `{name}` must be (low, high) with low <= high. Received: "
            f"{name}=({low}, {high})."
        )
    return low, high


def _named(what: str, group: str) -> str:
    return f"{what}/{group}" if group else what


def _integer(hp: Any, name: str, limits: tuple[Any, ...] | list[Any]) -> int:
    if limits[0] == limits[-1]:
        return hp.Fixed(name, limits[0])
    if isinstance(limits, list):
        return hp.Choice(name, limits, ordered=True)
    return hp.Int(name, *limits, sampling="log")


def _number(hp: Any, name: str, limits: tuple[Any, ...] | list[Any]) -> float:
    if limits[0] == limits[-1]:
        return hp.Fixed(name, limits[0])
    if isinstance(limits, list):
        return hp.Choice(name, limits, ordered=True)
    return hp.Float(name, *limits)
