"""Connect without I/O: the core that decides, and the frames it sends.

Nothing in here reads a clock, opens a socket or starts a thread.
"""
