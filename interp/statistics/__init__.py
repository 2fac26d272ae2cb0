"""Intervals and comparisons of numbers; nothing here knows a model."""
