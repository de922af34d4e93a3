"""How the pipeline speaks: numbers as text, progress, exit status, one JSON document.

In: values, and exceptions of a command.
Out: text on the terminal and the exit status.
"""
