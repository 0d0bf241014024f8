"""The I/O shell of the pool: one owner of the books, one session per sandbox, one channel per process in it."""
