"""Images: what is built, and the engine that builds it."""
