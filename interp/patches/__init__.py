"""Patches: weight changes that go on and come off exactly, are saved, and are exported."""
