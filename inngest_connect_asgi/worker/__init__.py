"""The app's half: runs functions on the app's event loop, beside whatever it does.

Nothing in here does any I/O with Inngest; ``sdk`` alone knows the SDK from inside.
"""
