"""Errors that no route has answered, as responses in the shape of the path's protocol."""

from __future__ import annotations

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reellama.pipeline.server.client_errors import error_body, status_and_message


class ErrorResponseMiddleware:
    """Answers with the error, unless a response has begun, which can only break off."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and answer the error that it ends with."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        has_begun = False

        async def send_and_note(message: Message) -> None:
            nonlocal has_begun
            has_begun = has_begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        except ClientDisconnect:
            pass
        except Exception as error:
            if has_begun:
                raise
            status, message = status_and_message(error)
            headers = {"Connection": "close"}  # the rest of the body is not read
            if status == 401:
                headers["WWW-Authenticate"] = "Bearer"
            body = error_body(scope["path"], status, message)
            await JSONResponse(body, status, headers)(scope, receive, send)
        return None
