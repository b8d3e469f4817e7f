"""The shell around the core: asyncio, sockets and HTTP.

It decides nothing, and does not know where it lives.
"""
