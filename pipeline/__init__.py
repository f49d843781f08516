"""What stands above images/ and rpm/: the targets of both as one graph, their tasks, and how a failed task is shown."""
