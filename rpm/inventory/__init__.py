"""What the frozen program is made of: the RPM's share of what a bill of materials is written from."""
