"""The ground-truth judge of the shapes world: what a picture shows, and whether that is what its caption says."""
