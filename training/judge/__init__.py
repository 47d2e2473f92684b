"""How the judge learns to see: its samples, what it should say of them, and how well it does."""
