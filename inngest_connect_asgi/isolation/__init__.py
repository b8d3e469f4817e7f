"""Where a runtime lives, what carries messages there, and who looks after it.

Nothing in here reads a message for more than to pass it on.
"""
