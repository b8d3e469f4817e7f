"""For Django projects: add ``inngest_connect_asgi.django`` to ``INSTALLED_APPS``.

Not needed to run functions: it adds system checks to ``manage.py check``.
"""
