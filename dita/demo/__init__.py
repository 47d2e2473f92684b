"""The demo: a model with and without acceleration, side by side in the browser (needs the extra `demo`).

What computes (`loaded`, `request`, `sampling`, `studio`, `scores`, `grid`, `record`) knows nothing of Gradio; the pages
are above it.
"""
