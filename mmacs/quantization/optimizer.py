"""Parameter groups of quantizers."""
