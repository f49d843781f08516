"""A night: all tests and the bench, within 80 minutes; one page of them, and what is kept for later nights' pages."""
