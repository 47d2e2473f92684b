"""Other processes that take a share of the work: those that a launcher started, or the actors of a Ray cluster."""
