"""The report of a run, in the terminal and as files, and reports of several runs side by side.

In: what evaluate, benchmark and the other stages wrote.
Out: `report.json`, `report.md`, `report.html`, `tradeoff.png`.
"""
