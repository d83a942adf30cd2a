"""From source records to clean rows: decoding, fingerprints, duplicates, quality, padding, splits. No torch."""
