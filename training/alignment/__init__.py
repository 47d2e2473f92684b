"""How the small CLIP and the small ImageReward learn, and what they learn from."""
