"""What Schemathesis checks in each answer of the daemon, besides what it knows itself."""

import schemathesis

# Of a connection that has no token now, or of something that is under way: the contract says 502 or 503 to these.
PASSING = {
    "expired", "fresh", "held", "in_doubt", "paused", "refreshing", "retrying",
    "master_key_rotating", "sign_in_failed", "sign_in_too_many", "too_many_readers",
}


@schemathesis.check
def no_trouble_of_the_daemon_s_own(ctx, response, case):
    if response.status_code < 500:
        return
    assert response.status_code in (502, 503), f"a defect answers {response.status_code}: {response.text}"
    assert response.json()["code"] in PASSING, f"the daemon is in trouble: {response.text}"


@schemathesis.check
def a_problem_says_what_to_do(ctx, response, case):
    if response.status_code not in (400, 404, 409, 413, 415):
        return
    if not response.headers.get("content-type", [""])[0].startswith("application/problem+json"):
        return
    problem = response.json()
    assert problem["detail"] and problem["next_action"], f"no next step: {response.text}"


@schemathesis.check
def what_carries_a_token_is_not_kept(ctx, response, case):
    if response.status_code == 200 and case.path.endswith(("/token", "/export")):
        assert response.headers.get("cache-control") == ["no-store"], response.headers
