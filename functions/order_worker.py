# /// script
# requires-python = ">=3.11"
#
# [tool.faas]
# name = "order-worker"
# memory = "64MB"
# timeout = "10s"
# retry = { attempts = 3, max_age = "1d" }
# on_success = "queue:invoices"
#
# [[tool.faas.queue]]
# name = "orders"
# batch = 10
# window = "50ms"
# max_concurrency = 5
# ///
"""Works off the queue ``orders``: checks each order, adds it up exactly, passes invoices on to the queue ``invoices``.

    faas queue send orders -d '{"id": "A-1", "customer": "Ada", "items": [{"price": "4.50", "quantity": 2}]}'

An order that is wrong fails alone: the others of its batch are done. After three attempts it is among the dead letters
(``faas queue dead orders``). A message may come twice, after a crash say; an order's ``id`` is in its invoice, so that
whoever books it can tell.
"""

import json
from decimal import Decimal, InvalidOperation

CENT = Decimal("0.01")
QUANTITY_MAX = 10_000
PRICE_MAX = 1_000_000


def handler(event, context):
    invoices, failures = [], []
    for record in event["Records"]:
        try:
            invoices.append(invoice(json.loads(record["body"])))
        except ValueError as error:
            print(f"order in message {record['messageId']} refused: {error}")
            failures.append({"itemIdentifier": record["messageId"]})
    return {"batchItemFailures": failures, "invoices": invoices}


def invoice(order):
    """What is to be paid; ``ValueError`` says what is wrong with the order."""
    if not isinstance(order, dict) or not order.get("id"):
        raise ValueError("an order needs an id")
    items = order.get("items")
    if not isinstance(items, list) or not items:
        raise ValueError(f"order {order['id']} has no items")
    total = sum((line_total(item) for item in items), Decimal(0))
    return {"order": order["id"], "customer": order.get("customer", ""), "lines": len(items), "total": str(total)}


def line_total(item):
    try:
        price, quantity = Decimal(str(item["price"])), item["quantity"]
    except (TypeError, KeyError, InvalidOperation):
        raise ValueError("each item needs a price and a quantity") from None
    if not (price.is_finite() and 0 <= price <= PRICE_MAX and price == price.quantize(CENT)):
        raise ValueError(f"{price} is no price in whole cents up to {PRICE_MAX:,}")
    if type(quantity) is not int or not 1 <= quantity <= QUANTITY_MAX:
        raise ValueError(f"the quantity must be from 1 to {QUANTITY_MAX}")
    return (price * quantity).quantize(CENT)
