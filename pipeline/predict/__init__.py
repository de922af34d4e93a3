"""Predict classes with a run's engine: sources (images, videos, cameras) → engine → writers (text, JSON, CSV, pictures).

In: an engine with its sidecar, and sources.
Out: a line, an object or an annotated picture for each image.
"""
