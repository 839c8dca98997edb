"""From a trained quantized model to a file that runtimes execute in integers."""
