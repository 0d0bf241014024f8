# /// script
# requires-python = ">=3.11"
#
# [tool.faas]
# name = "hello"
# memory = "64MB"
# timeout = "5s"
#
# [tool.faas.http]
# public = true
# methods = ["GET", "POST"]
# ///
"""Greets. Over HTTP: ``GET /fn/hello?name=Ada``; directly: ``{"name": "Ada"}``. Both answer JSON."""


def handler(event, context):
    event = event if isinstance(event, dict) else {}
    query = event.get("queryStringParameters") or {}
    name = query.get("name") or event.get("name") or "world"
    print(f"greeting {name}")
    return {"message": f"Hello, {name}!"}
