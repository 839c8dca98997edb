"""What is known of MMEngine: its wrappers around data sets, and where transforms take other images from."""
