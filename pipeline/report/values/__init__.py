"""What report.json holds and how its values read; a device writes the same report with these files.

In: `evaluation.json` and `benchmark.json`.
Out: the report as plain values, checked, and its texts for Markdown, terminal and page.
"""
