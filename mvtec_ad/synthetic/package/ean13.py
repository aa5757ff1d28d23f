"""Bar codes of products: EAN-13 (ISO/IEC 15420)."""

from __future__ import annotations

import numpy as np

# A digit is seven modules, 1 is a bar; set G is set R backwards, and set R is set A inverted.
_SET_A = (
    "0001101", "0011001", "0010011", "0111101", "0100011", "0110001", "0101111", "0111011", "0110111", "0001011",
)  # fmt: skip
_SET_R = tuple("".join("10"[int(module)] for module in code) for code in _SET_A)
_SET_G = tuple(code[::-1] for code in _SET_R)
_FIRST_DIGIT = (
    "AAAAAA", "AAGAGG", "AAGGAG", "AAGGGA", "AGAAGG", "AGGAAG", "AGGGAA", "AGAGAG", "AGAGGA", "AGGAGA",
)  # fmt: skip


def check_digit(digits: str) -> str:
    """Returns the last digit of the EAN-13 that begins with these twelve."""
    total = sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(digits))
    return str(-total % 10)


def ean13(number: str) -> np.ndarray:
    """Returns the 95 modules of a number of 13 digits, uint8: 1 is a bar, 0 a space."""
    if len(number) != 13 or check_digit(number[:12]) != number[12]:
        raise ValueError(f"{number} is no EAN-13")
    sets = {"A": _SET_A, "G": _SET_G}
    left = "".join(sets[kind][int(d)] for kind, d in zip(_FIRST_DIGIT[int(number[0])], number[1:7], strict=True))
    right = "".join(_SET_R[int(d)] for d in number[7:])
    return np.array([int(module) for module in f"101{left}01010{right}101"], np.uint8)
