"""Pure money: what was used, and a price book, become lines, bills and estimates. Exact until the one rounding."""
