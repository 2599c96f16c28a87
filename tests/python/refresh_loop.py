"""What people use today: a loop that refreshes and makes its token file durable. The benchmark's counterpart.

    refresh_loop.py requests-oauthlib|authlib TOKEN_URL CLIENT_ID SECONDS FOLDER

The first refresh token comes on standard input after the client secret, a line each. Prints one line of JSON:
{"refreshes": N, "seconds": S}.
"""

import json
import os
import sys
import time

# The provider of a benchmark speaks plain http on loopback; both libraries insist on this to say so.
os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"
os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"

EXPIRED = 1


def save(token: dict, path: str) -> None:
    """As safe as ours: a new file, synced, renamed, and the folder synced."""
    with open(path + ".new", "w", opener=lambda p, f: os.open(p, f, 0o600)) as file:
        json.dump(token, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(path + ".new", path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def requests_oauthlib(url: str, client_id: str, secret: str, token: dict, path: str):
    from requests_oauthlib import OAuth2Session

    session = OAuth2Session(client_id, token=token)

    def refresh() -> None:
        save(session.refresh_token(url, client_id=client_id, client_secret=secret), path)

    return refresh


def authlib(url: str, client_id: str, secret: str, token: dict, path: str):
    """Its auto-refresh, as each request of an application begins: of a token that has expired."""
    from authlib.integrations.requests_client import OAuth2Session

    session = OAuth2Session(
        client_id,
        secret,
        token=token,
        token_endpoint=url,
        token_endpoint_auth_method="client_secret_post",
        update_token=lambda token, refresh_token=None, access_token=None: save(token, path),
    )

    def refresh() -> None:
        session.token["expires_at"] = EXPIRED
        if not session.ensure_active_token(session.token):
            raise RuntimeError("not refreshed")

    return refresh


def main() -> None:
    library, url, client_id, seconds, folder = sys.argv[1:]
    secret, refresh_token = sys.stdin.read().split()
    token = {"access_token": "old", "refresh_token": refresh_token, "token_type": "Bearer", "expires_at": EXPIRED}
    make = {"requests-oauthlib": requests_oauthlib, "authlib": authlib}[library]
    refresh = make(url, client_id, secret, token, os.path.join(folder, "token.json"))
    refresh()
    started, refreshes = time.perf_counter(), 0
    while time.perf_counter() - started < float(seconds):
        refresh()
        refreshes += 1
    print(json.dumps({"refreshes": refreshes, "seconds": time.perf_counter() - started}))


main()
