"""Bases whose RPMs are made here of a Debian suite's packages, for machines that reach no CentOS mirror."""
