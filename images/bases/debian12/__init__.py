"""The base `debian12-rpm`: Debian 12's packages as RPMs, for machines that reach no CentOS mirror."""
