"""The page of a nightly run: tests, connectivity, rates. Pure functions from figures to HTML."""
