"""Cognitive Twin: small local models that learn from a developer's own work, and prove it."""

__version__ = "0.1.0"
