"""The proof that an exported file computes what was trained."""
