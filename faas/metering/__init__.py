"""Pure money: measured transitions become usage records, and usage records become exact sums."""
