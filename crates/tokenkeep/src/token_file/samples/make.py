"""Writes the token files that requests-oauthlib and Authlib leave behind, from exchanges with a server on loopback.

    pip install requests-oauthlib authlib && python make.py
"""

import http.server
import json
import os
import pathlib
import threading

from authlib.integrations.requests_client import OAuth2Session as AuthlibSession
from requests_oauthlib import OAuth2Session

os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"
HERE = pathlib.Path(__file__).parent
# Atlassian sends no token_type.
ATLASSIAN = {
    "access_token": "sample-access-1",
    "refresh_token": "sample-refresh-1",
    "expires_in": 3600,
    "scope": "read:jira-work offline_access",
}
FULL = ATLASSIAN | {"token_type": "bearer", "id_token": "sample-id-1", "instance_url": "https://example.com"}
answer = {}


class Provider(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.HTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/token"


def save(name, token, indent=None):
    (HERE / f"{name}.json").write_text(json.dumps(token, indent=indent))


for kind, answer in (("atlassian", ATLASSIAN), ("full", FULL)):
    session = OAuth2Session("client", redirect_uri="http://127.0.0.1/cb", scope=ATLASSIAN["scope"].split())
    token = session.fetch_token(url, code="code", client_secret="secret")
    if kind == "atlassian":
        save(f"requests_oauthlib_{kind}", token)
    else:
        refreshed = session.refresh_token(url, client_id="client", client_secret="secret")
        save(f"requests_oauthlib_{kind}_refreshed", refreshed, indent=4)
    session = AuthlibSession("client", "secret", redirect_uri="http://127.0.0.1/cb", scope=ATLASSIAN["scope"])
    save(f"authlib_{kind}", session.fetch_token(url, code="code", grant_type="authorization_code"), indent=2)
