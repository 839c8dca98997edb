"""The page that shows what a run's coreset was, why, and what it cost."""
