"""What all other modules may use: files, processes, logs, addresses. Nothing here knows what overlayd does."""
