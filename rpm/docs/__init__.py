"""Manual pages and shell completion, made from the program's own parser and settings table."""
