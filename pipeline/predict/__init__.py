"""Predict with an engine: sources (images, videos, cameras) → engine → a task's output → writers (text, JSON, CSV, pictures).

In: a run, or an engine with its sidecar, and sources.
Out: a line of text, a JSON object, a CSV row or an annotated picture for each image; of a segmentation its class map.
"""
