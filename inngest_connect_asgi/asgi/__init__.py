"""What an app adds, and a server sees: the middleware, and the lifespan around it.

Nothing in here knows of the wire, or of where the runtime lives.
"""
