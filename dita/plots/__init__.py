"""Pictures of what a method does: the plan as a map, and the tokens that a run computed. They need matplotlib."""
