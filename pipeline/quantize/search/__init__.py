"""Where INT8 costs accuracy and where it saves time: the sensitivity of each layer, and the search for precision `auto`.

In: the exported graph, the calibration set, and training images that are not in it.
Out: `sensitivity.json` and `search.json`.
"""
