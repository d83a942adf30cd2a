"""Records in, clean rows out: safe decoding, fingerprints, duplicates, quality, padding, splits. No torch."""
