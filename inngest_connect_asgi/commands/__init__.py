"""What ``python -m inngest_connect_asgi`` has: each a module with a ``main``.

Nothing else imports them.
"""
