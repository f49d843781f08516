"""A host that ran flannel, read in our terms: its options, its subnet, and what of it has to go."""
