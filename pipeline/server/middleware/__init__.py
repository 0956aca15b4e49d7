"""ASGI middleware that every HTTP request passes before its route; `create_app` has the order."""
