"""Models that write for us."""
