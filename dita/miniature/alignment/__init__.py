"""Pictures and texts: a small CLIP and a small ImageReward for the shapes world."""
