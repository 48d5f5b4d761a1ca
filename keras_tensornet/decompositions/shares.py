"""Which share of its singular values an unfolding keeps: of their squares, or of their sum.

Gabor and Zdunek 2022 print the share of the squares (equation 14); it stays what `energy` means.
The sizes in their tables are those of the share of the sum, which keeps more at the same number:
the squares of few large singular values soon hold nearly all of the energy.
"""

from __future__ import annotations

from typing import overload

NORMS = ("frobenius", "nuclear")


class NuclearShare(float):
    """A share of the sum of singular values, where a plain float is a share of their squares."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{float(self)!r} of the nuclear norm"

    __str__ = __repr__


@overload
def energy_share(energy: float, energy_norm: str = "frobenius") -> float: ...
@overload
def energy_share(energy: float | None, energy_norm: str = "frobenius") -> float | None: ...
def energy_share(energy: float | None, energy_norm: str = "frobenius") -> float | None:
    """A share that knows what it is a share of; passes through what knows it already.

    Args:
        energy: share in (0, 1], or None where another rule chooses ranks.
        energy_norm: "frobenius" for squared singular values, "nuclear" for their sum.

    Raises:
        ValueError: for another norm, or one without an energy.
    """
    if energy_norm not in NORMS:
        raise ValueError(
            f"`energy_norm` must be one of {NORMS}. Received: energy_norm={energy_norm!r}."
        )
    if energy_norm == "frobenius":
        return energy
    if energy is None:
        raise ValueError(
            "`energy_norm` says what `energy` is a share of, and there is no `energy`. Received: "
            f"energy_norm={energy_norm!r}. Give `energy` as well, or leave `energy_norm` out."
        )
    if isinstance(energy, bool) or not isinstance(energy, (int, float)):
        raise TypeError(f"`energy` must be a number. Received: {energy!r}.")
    return NuclearShare(energy)


def refuse_nuclear(energy: float | None, what: str) -> None:
    """Raise for a share of the nuclear norm where no singular values are cut.

    Args:
        energy: a share or None.
        what: what is decomposed without singular values, such as "CP".
    """
    if isinstance(energy, NuclearShare):
        raise ValueError(
            f"{what} cuts no singular values, so `energy_norm='nuclear'` means nothing there. "
            f"Received: energy={float(energy)}. Use `energy_norm='frobenius'`, `eps`, or a format "
            "that is found by SVDs: tt, ttm, tr, tucker, ht."
        )
