"""Clean rows in, the Hub-shaped folder out: balanced, in parquet, with its card; and checked by reading it back."""
