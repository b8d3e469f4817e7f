from __future__ import annotations

import json

import inngest
from django.http import HttpRequest, JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from .functions import client
from .models import Order


@csrf_exempt
@require_POST
def place_order(request: HttpRequest) -> JsonResponse:
    data = json.loads(request.body)
    order = Order.objects.create(item=data["item"], price=data["price"])
    event = inngest.Event(name="shop/order.placed", data={"order_id": order.pk})
    ids = client.send_sync(event)
    return JsonResponse({"order_id": order.pk, "event_ids": ids}, status=202)


def show_order(request: HttpRequest, order_id: int) -> JsonResponse:
    order = get_object_or_404(Order, pk=order_id)
    return JsonResponse({"item": order.item, "status": order.status})
