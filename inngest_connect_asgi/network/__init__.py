"""The way to Inngest: proxies, and whom to trust.

Nothing in here knows what is said on it.
"""
