"""Reads everything that the checks judge by, and changes nothing. What cannot be read is left out, never an error."""
