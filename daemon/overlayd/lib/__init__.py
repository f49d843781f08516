"""What every room may use: files, processes, logs, addresses; nothing of it knows what overlayd does."""
