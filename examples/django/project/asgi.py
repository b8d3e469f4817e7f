from __future__ import annotations

import os

from django.core.asgi import get_asgi_application

from inngest_connect_asgi import InngestConnectMiddleware

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
application = get_asgi_application()

# After get_asgi_application(), which sets Django up: functions import models.
from orders.functions import client, functions  # noqa: E402

application = InngestConnectMiddleware(application, client=client, functions=functions)
