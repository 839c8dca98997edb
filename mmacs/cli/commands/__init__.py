"""The commands: one module each, its description, its options and what it does. Heavy imports are inside ``main``."""
