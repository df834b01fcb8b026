"""The JSON API by Starlette, with mail as server-sent events: who waits for mail has no thread."""

import argparse
import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from functools import partial
from urllib.parse import quote

import anyio
import api
import uvicorn
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from twinline.core.errors import RequestError
from twinline.core.protocol import SessionReply, WatchReply
from twinline.core.service import ChatService
from twinline.core.session import Session
from twinline.stores.memory import MemoryStore

HEARTBEAT_SECONDS = 15
LOOKING = anyio.CapacityLimiter(4)  # threads that no queue of password hashes can fill
service = ChatService(MemoryStore())


class Events(StreamingResponse):
    """One browser's mail until it leaves: a thread is taken to look, and none to wait."""

    def __init__(self, session: Session, after: int) -> None:
        super().__init__(self._events(session, after), media_type="text/event-stream")
        self.headers["Cache-Control"] = "no-store"
        self._subscription = contextlib.ExitStack()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._subscription:
            await super().__call__(scope, receive, send)  # is cancelled when the browser leaves

    async def _events(self, session: Session, after: int) -> AsyncIterator[str]:
        loop, news = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(news.set)

        def subscribe() -> None:
            self._subscription.callback(service.subscribe(session, wake))

        yield ": here is your mail\n\n"
        try:
            await run_sync(subscribe, limiter=LOOKING)
            while True:
                news.clear()
                page = await run_sync(service.watch, session, after, limiter=LOOKING)
                for message in page.messages:
                    after = message.seq
                    yield f"id: {after}\ndata: {message.model_dump_json()}\n\n"
                if not page.messages:
                    with anyio.move_on_after(HEARTBEAT_SECONDS):
                        await news.wait()
                    yield ":\n\n"  # a heartbeat: a browser that left unnoticed is noticed
        except RequestError as error:  # the session has ended, or the server stops
            yield f"event: end\ndata: {error.to_reply().model_dump_json(exclude_none=True)}\n\n"


async def events(http: Request) -> Response:
    session = service.session(http.client.host if http.client else "")
    # EventSource sends no header of ours, so a cookie that goes nowhere but here is its token.
    token = http.headers.get("Authorization") or f"Bearer {http.cookies.get('session', '')}"
    seen = http.headers.get("Last-Event-ID") or http.query_params.get("after", "")
    target = f"/messages?limit=1&after={quote(seen or '0')}"
    page = await run_sync(api.answer, service, session, "GET", target, token, limiter=LOOKING)
    if not isinstance(page, WatchReply):
        status, body = api.response(page)
        return Response(body, status, media_type="application/json")
    return Events(session, int(seen) if seen.isdecimal() else page.position)


async def answer(http: Request) -> Response:
    session = service.session(http.client.host if http.client else "")
    target, token = f"{http.url.path}?{http.url.query}", http.headers.get("Authorization", "")
    ask = partial(api.answer, service, session, http.method, target, token, body=await http.body())
    reply = await run_sync(ask)
    status, body = api.response(reply)
    response = Response(body, status, media_type="application/json")
    if isinstance(reply, SessionReply):
        cookie = f"session={reply.session}; Path=/events; HttpOnly; SameSite=Strict"
        response.headers["Set-Cookie"] = cookie + "; Secure" * (http.url.scheme == "https")
    return response


class Server(uvicorn.Server):
    """Ends the streams first when it is told to stop, for uvicorn waits until they end."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        service.stop()
        await super().shutdown(sockets)


app = Starlette(
    routes=[
        Route("/events", events, methods=["GET"]),
        Route("/{path:path}", answer, methods=["GET", "POST", "DELETE"]),
    ],
    max_body_size=service.settings.frame_bytes,
)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8080)
    listening = socket.create_server(("127.0.0.1", parser.parse_args().port))
    print(f"listening on http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])
