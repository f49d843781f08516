"""What would stop packets on this host: `gather` looks, `checks` judge, `finding` says. Nothing is changed."""
