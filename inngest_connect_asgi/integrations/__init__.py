"""What other libraries want to know of a worker, each behind a guard.

Nothing in here changes an outcome, or imports what the app has not imported.
"""
