"""The image `overlayd/host`: a Docker host with overlayd, as `yum install overlayd` leaves it."""
