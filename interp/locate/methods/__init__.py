"""The locators, a file each."""
