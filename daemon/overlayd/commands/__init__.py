"""What each command does: one module a command, whose `main` returns the exit status. Failures are exceptions."""
