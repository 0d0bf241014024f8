"""Connectors: what people already run feeds queues of ours. ``connectors.py`` runs them, ``pump.py`` says how.

An adapter, and the library in it, is imported when a function first names such a connection: others pay nothing.
"""
