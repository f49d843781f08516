# Set-up and short names; the logic is in tasks.py and what it gathers.
