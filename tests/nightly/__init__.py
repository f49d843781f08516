"""The page that a night leaves: tests, connectivity, rates. Pure functions from figures to HTML."""
