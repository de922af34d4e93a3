"""The report as one HTML page: a file for each section, its template of the same name in `templates/`.

In: a report's values, and what other stages found.
Out: one self-contained page that loads nothing.
"""
