"""Hostile input, damage, kills and faults (see conftest)."""
