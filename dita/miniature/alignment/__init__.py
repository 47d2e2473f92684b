"""Pictures and texts: a small CLIP and a small ImageReward for the shapes world, and what they are trained on."""
