"""`make bench`: how fast the platform is, beside bare uvicorn + Starlette in the same run.

Theory of operation. A node is started as a user would start it (`faas up`), the floor (`echo_server`) beside it; the
load comes from a third process (`load`). Where a number is compared with the floor, rounds of both alternate and the
ratio is the median of the rounds' ratios, so that a machine that speeds up or slows down meanwhile changes both.
Absolute bars (a start takes at most 10 ms) are medians or percentiles over many samples. Nothing here asserts a time:
a bar that is missed is printed as "short", and the exit code says only whether everything could be measured.
"""
