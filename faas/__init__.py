"""A self-hosted serverless platform: one file becomes a metered, isolated, autoscaled function."""

__version__ = "0.1.0"
