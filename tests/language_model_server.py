"""A small real HTTP server that stands in for a language model, and misbehaves on request."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Call:
    """One request as the server got it. `tries` counts this caption (a judge's prompt is its own) and kind, from 1."""

    caption: str
    kind: str
    tries: int
    body: dict[str, Any]
    headers: dict[str, str]
    time: float


@dataclass(frozen=True)
class Reply:
    """`text` is the model's answer; `raw` takes the place of the whole body."""

    text: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    reset: bool = False
    raw: bytes | None = None
    finish_reason: str = "stop"
    cut_body: bool = False


def good_answer(call: Call) -> str:
    """What a well-behaved model writes; made of the caption, so that the same question has the same answer."""
    organ = re.search(r"in the ([\w ]+)\.", call.caption)
    place = organ.group(1) if organ else "image"
    finding = re.search(r"shows an? ([\w ]+) in", call.caption)
    what = finding.group(1) if finding else "nothing"
    first = {"question": f"What abnormality is seen within the {place}?", "answer": what}
    second = {"question": "How was this picture made?", "answer": "computed tomography"}
    match call.kind:
        case "closed":
            pairs = [
                {"question": f"Does the {place} contain a {what}?", "answer": "Yes."},
                {"question": f"Is the picture of the {place} a radiograph?", "answer": "no"},
            ]
        case "choice":
            pairs = [{**first, "wrong": ["normal tissue", "fracture line", "air leak"]}]
        case "image":
            pairs = [{**second, "topic": "modality"}]
        case "conversation":
            return json.dumps({"turns": [second, first]})
        case _:
            pairs = [first, second]
    return json.dumps({"pairs": pairs})


class LanguageModel:
    """Serves `/v1/chat/completions` in a thread, each request by `behave`; None stands for a good answer."""

    def __init__(self, behave: Callable[[Call], Reply | None] = lambda call: None):
        self.behave = behave
        self.calls: list[Call] = []
        self._lock = threading.Lock()
        model = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                call = model._record(body, {name.lower(): value for name, value in self.headers.items()}, self.path)
                reply = model.behave(call) or Reply(good_answer(call))
                try:
                    model._send(self, reply)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True  # the client has given up

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> LanguageModel:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _record(self, body: dict[str, Any], headers: dict[str, str], path: str) -> Call:
        assert path == "/v1/chat/completions"
        system, user = (message["content"] for message in body["messages"])
        found = re.search(r"^Text under the \w+: (.*)$", user, re.MULTILINE)
        caption = found.group(1) if found else user
        kind = next(
            kind
            for kind, mark in (
                ("judge", "mark answers"),
                ("closed", "yes-or-no"),
                ("choice", "multiple-choice"),
                ("conversation", "conversation"),
                ("literature", "published figure"),
                ("image", "one topic"),
                ("open", ""),
            )
            if mark in system + user
        )
        with self._lock:
            tries = 1 + sum((call.caption, call.kind) == (caption, kind) for call in self.calls)
            call = Call(caption, kind, tries, body, headers, time.monotonic())
            self.calls.append(call)
        return call

    @staticmethod
    def _send(handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        time.sleep(reply.delay)
        if reply.reset:
            # Lingering for no time makes the close a reset (RST) and not an end (FIN).
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
            handler.close_connection = True
            return
        message = {"role": "assistant", "content": reply.text}
        choice = {"index": 0, "message": message, "finish_reason": reply.finish_reason}
        completion = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        body = json.dumps(completion).encode() if reply.raw is None else reply.raw
        handler.send_response(reply.status)
        for name, value in {"Content-Type": "application/json", **reply.headers}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: len(body) // 2] if reply.cut_body else body)
        if reply.cut_body:
            handler.wfile.flush()
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
