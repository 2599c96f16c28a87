"""Reads a token file as programs do, for some seconds; prints what it saw, and fails at the first bad read."""

import json
import sys
import time

from requests_oauthlib import OAuth2Session

path, seconds = sys.argv[1], float(sys.argv[2])
reads, tokens, shortest = 0, set(), float("inf")
until = time.monotonic() + seconds
while time.monotonic() < until:
    with open(path) as file:
        token = json.load(file)
    session = OAuth2Session("client", token=token)
    assert session.authorized, "no access token"
    # As oauthlib itself judges it before each request.
    left = session._client._expires_at - time.time()
    assert left > 0, f"the token ended {-left:.3f} s ago"
    headers = session._client.add_token("https://api.example.com/", headers={})[1]
    assert headers["Authorization"] == f"Bearer {token['access_token']}", "not a bearer header"
    assert token["refresh_token"] and isinstance(token["expires_at"], int)
    reads, shortest = reads + 1, min(shortest, left)
    tokens.add(token["access_token"])
print(json.dumps({"reads": reads, "tokens": len(tokens), "shortest_life_s": round(shortest, 3)}))
