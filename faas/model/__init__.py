"""Nouns of the platform: frozen values, no I/O, no clock."""
