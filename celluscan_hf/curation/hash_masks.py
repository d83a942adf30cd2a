"""511 masks of 64-bit hashes: of any 8 bits, all lie outside one of the masks.

So two hashes that differ in at most 8 bits agree in all bits of at least one mask (covering LSH, which has no false
negatives: Pagh, SODA 2016). Bit (row, column) of a hash, each in 0..7, is given the vector of 9 bits (row, column,
row * column), the product taken in the field of 8 elements. A mask is the set of bits whose vectors have an odd number
of ones in common with a non-zero vector of 9 bits: any 8 vectors are orthogonal to one such vector, whose mask has none
of their bits. The masks are the words of a Kasami code [64, 9, 28] (MacWilliams and Sloane, 1977): 252 have 28 bits, 63
have 32 and 196 have 36. No family of masks of 32 bits can have fewer than 421 (Schönheim's bound).
"""

import numpy as np
from numpy.typing import NDArray

MAX_DISTANCE = 8  # bits
_SIDE = 8  # rows and columns of a hash
_MODULUS = 0b1011  # x^3 + x + 1, irreducible over the field of two elements


def covering_masks() -> NDArray[np.uint64]:
    """Compute the masks, (511,). The highest bit, that of the mean of the image, is in none of them."""
    numbers = np.arange(_SIDE * _SIDE)
    rows, columns = numbers // _SIDE, numbers % _SIDE
    vectors = rows << 6 | columns << 3 | _product(rows, columns)  # (64,)
    chosen = np.arange(1, 2 ** (MAX_DISTANCE + 1))
    odd = np.bitwise_count(chosen[:, None] & vectors) % 2  # (511, 64)
    masks: NDArray[np.uint64] = np.packbits(odd, axis=1).view(">u8").ravel().astype(np.uint64)
    return masks


def _product(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """Multiply elements of the field of 8 elements, given as polynomials of three bits."""
    product: NDArray[np.int64] = np.bitwise_xor.reduce([a * (b & bit) for bit in (1, 2, 4)])
    for power in (4, 3):  # x^4 and x^3 are reduced
        product = product ^ (product >> power) % 2 * (_MODULUS << (power - 3))
    return product
