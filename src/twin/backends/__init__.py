"""Asks models for answers: the wire, the dialects, the providers. Routes and stores nothing."""
