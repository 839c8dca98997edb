"""BatchNorm of quantized models."""
