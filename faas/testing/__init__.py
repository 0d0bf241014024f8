"""The world the pool is simulated in, and builders for tests. Nothing here is used in production."""
