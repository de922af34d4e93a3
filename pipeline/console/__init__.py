"""What every command prints and returns: numbers as text, progress, error messages, exit status, one JSON document.

In: values, and the exceptions that a command raises.
Out: text on the terminal and the exit status.
"""
