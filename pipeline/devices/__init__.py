"""Devices over SSH: from the host to a Jetson and back in one command, for one device or twenty.

In: devices.yaml, and a finished run.
Out: runs/RUN/devices/NAME/ with what each device measured, checked on the host, and one page of all of them.
"""
