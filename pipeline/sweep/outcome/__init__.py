"""What the finished points of a sweep come to: the front over all engines, what each axis gains, and what failed.

In: a `SweepOutcome`, which holds the points and their reports.
Out: `sweep.json`, `sweep.csv`, `sweep.html`, `sweep.png`, and the terminal's tables.
"""
