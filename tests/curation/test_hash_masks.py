"""Any 8 bits lie outside one of the masks."""

import numpy as np

from celluscan_hf.curation.hash_masks import covering_masks


def test_the_masks_are_all_non_zero_words_of_a_linear_code_of_dimension_nine() -> None:
    # of a code of dimension 9, eight bits are zero in a subspace of dimension 1 or more
    masks = covering_masks()
    words = {0, *masks.tolist()}
    assert len(words) == 2**9
    assert {int(a) ^ int(b) for a in masks for b in masks} == words


def test_every_mask_has_at_least_28_bits() -> None:
    sizes = np.bitwise_count(covering_masks())
    assert dict(zip(*np.unique(sizes, return_counts=True), strict=True)) == {28: 252, 32: 63, 36: 196}


def test_random_sets_of_eight_bits_each_lie_outside_a_mask() -> None:
    chosen = np.random.default_rng(0).permuted(np.tile(np.arange(64, dtype=np.uint64), (2_000, 1)), axis=1)[:, :8]
    bits = np.bitwise_or.reduce(np.uint64(1) << chosen, axis=1)
    assert ((bits[:, None] & covering_masks()) == 0).any(axis=1).all()
