from __future__ import annotations

from django.apps import AppConfig
from django.core.checks import register

from .checks import check_connect

__all__ = ["ConnectConfig"]


class ConnectConfig(AppConfig):
    name = "inngest_connect_asgi.django"
    label = "inngest_connect_asgi"
    verbose_name = "Inngest Connect"

    def ready(self) -> None:
        register(check_connect)
