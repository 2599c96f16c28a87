"""A receiver of webhooks that checks each delivery with the standard's own library.

    webhook_receiver.py

Prints one line of JSON, {"url": ...}, once it serves. `POST /hook` is a delivery; `PUT /secrets` takes a JSON list of
secrets, `PUT /status` the status that deliveries are answered with; `GET /received` lists what came.
"""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook, WebhookVerificationError

secrets: list[str] = []
status = 204
received: list[dict] = []


def verifies(secret: str, body: bytes, headers: dict) -> bool:
    try:
        Webhook(secret).verify(body, headers)
    except WebhookVerificationError:
        return False
    return True


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def answer(self, code: int, body: bytes = b"") -> None:
        self.send_response(code)
        if code == 302:
            self.send_header("location", "/hook")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body, headers = self.body(), {name.lower(): value for name, value in self.headers.items()}
        received.append(
            {
                "id": headers["webhook-id"],
                "content_type": headers.get("content-type"),
                "verified": [verifies(secret, body, headers) for secret in secrets],
                "tampered": [verifies(secret, body + b" ", headers) for secret in secrets],
                "status": status,
                "body": json.loads(body),
            }
        )
        self.answer(status)

    def do_PUT(self) -> None:
        global secrets, status
        given = json.loads(self.body())
        if self.path == "/secrets":
            secrets = given
        else:
            status = given
        self.answer(204)

    def do_GET(self) -> None:
        self.answer(200, json.dumps(received).encode())

    def log_message(self, *_: object) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(json.dumps({"url": f"http://127.0.0.1:{server.server_port}"}), flush=True)
server.serve_forever()
