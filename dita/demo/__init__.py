"""The demo: a model with and without acceleration, side by side in the browser (needs the extra `demo`).

What computes (`loaded`, `request`, `sampling`, `studio`, `scores`, `grid`) knows nothing of Gradio; what shows is above it.
"""
