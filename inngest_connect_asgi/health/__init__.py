"""What the worker's state means for whoever asks, and how it is served.

Nothing in here changes the state.
"""
