"""Around the program: files written whole or not at all, text that a terminal can show, other libraries kept quiet."""
