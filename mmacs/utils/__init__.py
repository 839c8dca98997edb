"""What every room may use: errors, files, processes, checkpoints, registries. Imports nothing else of mmacs."""
