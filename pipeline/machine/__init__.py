"""What this machine is and has: CPU, GPU, Jetson, installed versions, power, memory, and the doctor's table of them.

In: nothing but the machine itself.
Out: facts for reports, and readings of power and memory while an engine runs.
"""
