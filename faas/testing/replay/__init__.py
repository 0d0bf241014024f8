"""Replays traces of calls through the pool's keep-alive policies: ``python -m faas.testing.replay TRACE_FOLDER``."""
