"""How a change is said in words: "1.09x slower", never "0.92x faster"."""

from __future__ import annotations


def change(before: float, after: float, fewer: str, more: str, same: str) -> tuple[str, str]:
    """By which factor something changed, and the word for it.

    Args:
        before, after: positive amounts.
        fewer: the word where `after` is the smaller one, such as "faster" or "fewer parameters".
        more: where it is the larger one.
        same: where they differ by less than the two decimals show.

    Returns:
        The factor, which is never below 1, and the word.

    >>> change(1.00, 1.09, "faster", "slower", "the same time")
    ('1.09x', 'slower')
    >>> change(3.0, 1.2, "faster", "slower", "the same time")
    ('2.50x', 'faster')
    """
    if after <= 0 or before <= 0:
        return (f"{after:g}", f"instead of {before:g}") if before != after else ("1.00x", same)
    smaller = after < before
    factor = f"{before / after if smaller else after / before:.2f}x"
    return factor, same if factor == "1.00x" else fewer if smaller else more


def speed(before: float, after: float) -> str:
    """A change of time in words.

    >>> speed(0.92, 1.0), speed(2.0, 2.0)
    ('1.09x slower', 'the same time')
    """
    factor, word = change(before, after, "faster", "slower", "the same time")
    return word if factor == "1.00x" else f"{factor} {word}"


def parameters(before: float, after: float) -> str:
    """A change of the number of parameters in words.

    >>> parameters(100, 25), parameters(100, 100)
    ('4.00x fewer', 'as many')
    """
    factor, word = change(before, after, "fewer", "more", "as many")
    return word if factor == "1.00x" else f"{factor} {word}"
