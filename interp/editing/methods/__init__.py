"""The editors, a file each."""
