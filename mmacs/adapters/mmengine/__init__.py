"""What is known of MMEngine: wrappers of data sets, images that transforms fetch, data preprocessors."""
