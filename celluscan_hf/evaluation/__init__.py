"""How good a classifier is: figures with intervals, and the report that shows them."""
