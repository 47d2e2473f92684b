"""Small pictures of the bundled models' examples, drawn by the plain pipelines: `python -m dita.demo.thumbnails`."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

FOLDER = Path(__file__).parent / "examples"
SIDE = 64  # pixels, at most


def thumbnail(model: str, prompt: str) -> Path | None:
    """The file of a prompt's picture; None where there is none."""
    path = _path(model, prompt)
    return path if path.is_file() else None


def draw(model: str, count: int = 6) -> list[Path]:
    """Draws the first `count` examples of a bundled model with seed 0, and writes them."""
    from dita.demo.loaded import load
    from dita.demo.request import checked, limits_of
    from dita.demo.sampling import Made
    from dita.demo.studio import Studio
    from dita.methods import Plain

    loaded = load(model, "float32", "cpu")
    studio = Studio(loaded)
    written = []
    for prompt in loaded.examples(count):
        events = studio.generate(checked(loaded, limits_of(loaded), prompt), Plain())
        made = next(event for event in events if isinstance(event, Made))
        picture = Image.fromarray(made.frames[len(made.frames) // 2])
        picture.thumbnail((SIDE, SIDE))
        path = _path(model, prompt)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, optimize=True)
        written.append(path)
    studio.close()
    return written


def _path(model: str, prompt: str) -> Path:
    return FOLDER / re.sub(r"[^a-z0-9-]+", "-", model.lower()) / (re.sub(r"[^a-z0-9]+", "-", prompt.lower()) + ".png")


if __name__ == "__main__":
    from dita import miniature

    for name in miniature.MINIATURES:
        draw(name)
