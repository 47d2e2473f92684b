"""How the bundled models, and the networks that judge their pictures, were made: for clones, not in the wheel."""

from pathlib import Path

from dita import miniature

SHIPPED = Path(miniature.__file__).parent
"""The folder of all that dita bundles, where trainings write what they have made."""
