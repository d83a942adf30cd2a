"""Build the dataset: balance clean rows, write parquet files and a card, read everything back and check it."""
