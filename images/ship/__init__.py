"""What leaves the build folder: images to registries and archives, and releases with all that belongs to them."""
