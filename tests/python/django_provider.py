"""A Django site with django-oauth-toolkit: refresh tokens rotate, with a grace, and reuse after it ends the family.
People sign in at it with a password, and allow or cancel what a client asks for.

    django_provider.py FOLDER serve
    django_provider.py FOLDER grants PREFIX COUNT PROVIDER
    django_provider.py FOLDER families

`serve` prints one line of JSON, `{"authorize_url": ..., "token_url": ..., "me_url": ...}`, when it serves. It ends when its standard input does, so that it
cannot outlive the test that started it. `grants` signs users in and prints the lines that import their token sets.
`families` tells what the site's own database says of the refresh tokens of each user who has any, as one JSON object.
"""

import argparse
import hashlib
import json
import os
import secrets
import sys
import threading
import uuid
from datetime import timedelta
from pathlib import Path

import django
from django.conf import settings

ACCESS_TTL_S = 20
GRACE_S = 60
CLIENT = {"id": "tokenkeep-tests", "secret": "a-secret-of-the-tests"}
# Who can sign in at the pages; the driver of the browser knows their passwords.
PEOPLE = {name: f"the password of {name}" for name in ("anna", "ben")}
SIGN_IN_PAGE = """<!doctype html><title>Sign in</title>
<form method="post">{% csrf_token %}{{ form }}<button type="submit">Sign in</button></form>"""
# SQLite has one writer: a few threads keep it busy.
THREADS = 4


def configure(folder: Path) -> None:
    settings.configure(
        ALLOWED_HOSTS=["127.0.0.1"],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": folder / "site.sqlite3",
                # A writer waits for its turn instead of failing in the middle.
                "OPTIONS": {
                    "timeout": 20,
                    "transaction_mode": "IMMEDIATE",
                    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
                },
            }
        },
        INSTALLED_APPS=[
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "oauth2_provider",
        ],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ],
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "OPTIONS": {
                    "loaders": [
                        ("django.template.loaders.locmem.Loader", {"registration/login.html": SIGN_IN_PAGE}),
                        "django.template.loaders.app_directories.Loader",
                    ]
                },
            }
        ],
        LOGIN_URL="/login/",
        STATIC_URL="/static/",
        # Hashing is slow on purpose, and not what is tested.
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        OAUTH2_PROVIDER={
            "ACCESS_TOKEN_EXPIRE_SECONDS": ACCESS_TTL_S,
            "ROTATE_REFRESH_TOKEN": True,
            "REFRESH_TOKEN_GRACE_PERIOD_SECONDS": GRACE_S,
            "REFRESH_TOKEN_REUSE_PROTECTION": True,
            "PKCE_REQUIRED": True,
            # No PKCE method but S256.
            "COMPLIANT_BCP_RFC9700_PKCE_METHOD": True,
            "SCOPES": {"read": "Read"},
        },
        ROOT_URLCONF=__name__,
        SECRET_KEY="nobody needs to guess this",
        USE_TZ=True,
    )
    django.setup()


def serve() -> None:
    from django.contrib.auth import get_user_model
    from django.core.management import call_command
    from django.core.wsgi import get_wsgi_application
    from oauth2_provider.models import get_application_model
    from waitress.server import create_server

    call_command("migrate", verbosity=0)
    application = get_application_model()
    application.objects.get_or_create(
        client_id=CLIENT["id"],
        defaults={
            "client_secret": CLIENT["secret"],
            "hash_client_secret": False,
            "client_type": application.CLIENT_CONFIDENTIAL,
            "authorization_grant_type": application.GRANT_AUTHORIZATION_CODE,
            # Of any port (RFC 8252 section 7.3).
            "redirect_uris": "http://127.0.0.1/callback",
        },
    )
    for name, password in PEOPLE.items():
        get_user_model().objects.create_user(name, password=password)
    server = create_server(get_wsgi_application(), host="127.0.0.1", port=0, threads=THREADS)
    site = f"http://127.0.0.1:{server.effective_port}"
    told = {
        "authorize_url": f"{site}/authorize/",
        "token_url": f"{site}/token/",
        "me_url": f"{site}/me/",
        "client_id": CLIENT["id"],
        "client_secret": CLIENT["secret"],
    }
    print(json.dumps(told), flush=True)
    threading.Thread(target=end_with_the_test, daemon=True).start()
    server.run()


def end_with_the_test() -> None:
    sys.stdin.read()
    os._exit(0)


def grants(prefix: str, count: int, provider: str) -> None:
    for nth in range(count):
        name = f"{prefix}{nth}"
        print(json.dumps({"name": name, "provider": provider, "token": sign_in(name)}))


def sign_in(name: str) -> dict:
    """What the site stores when a user of this name has consented, and the token set as its client gets it."""
    from django.contrib.auth import get_user_model
    from django.utils import timezone
    from oauth2_provider.models import get_access_token_model, get_application_model, get_refresh_token_model

    user = get_user_model().objects.create(username=name)
    application = get_application_model().objects.get(client_id=CLIENT["id"])
    expires = timezone.now() + timedelta(seconds=ACCESS_TTL_S)
    access = get_access_token_model().objects.create(
        user=user, application=application, token=secrets.token_urlsafe(24), expires=expires, scope="read"
    )
    refresh = get_refresh_token_model().objects.create(
        user=user,
        application=application,
        token=secrets.token_urlsafe(24),
        access_token=access,
        token_family=uuid.uuid4(),
    )
    return {
        "access_token": access.token,
        "refresh_token": refresh.token,
        "token_type": "Bearer",
        "expires_at": expires.timestamp(),
        "scope": "read",
    }


def families() -> None:
    from django.contrib.auth import get_user_model

    users = get_user_model().objects.filter(oauth2_provider_refreshtoken__isnull=False).distinct()
    print(json.dumps({user.username: family(user) for user in users}))


def family(user) -> dict:
    """How often the user's grant was renewed, how many of its refresh tokens still work (one; none where the family
    is revoked), and of the access token that belongs to the live one its SHA-256 and its end in seconds since 1970."""
    from oauth2_provider.models import get_refresh_token_model

    tokens = get_refresh_token_model().objects.filter(user=user)
    live = tokens.filter(revoked__isnull=True).select_related("access_token")
    access = next((token.access_token for token in live if token.access_token), None)
    return {
        "families": tokens.values("token_family").distinct().count(),
        "renewals": tokens.count() - 1,
        "live": live.count(),
        "access_token_sha256": access and hashlib.sha256(access.token.encode()).hexdigest(),
        "access_expires_at": access and access.expires.timestamp(),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve")
    commands.add_parser("families")
    wish = commands.add_parser("grants")
    wish.add_argument("prefix")
    wish.add_argument("count", type=int)
    wish.add_argument("provider")
    arguments = parser.parse_args()
    configure(arguments.folder)
    match arguments.command:
        case "serve":
            serve()
        case "grants":
            grants(arguments.prefix, arguments.count, arguments.provider)
        case "families":
            families()


def __getattr__(name: str):
    """`urlpatterns`, which can be made only when the settings are."""
    if name != "urlpatterns":
        raise AttributeError(name)
    from django.contrib.auth.views import LoginView
    from django.http import JsonResponse
    from django.urls import path
    from oauth2_provider.decorators import protected_resource
    from oauth2_provider.views import AuthorizationView, TokenView

    @protected_resource()
    def me(request):
        """Whose access token it is; 403 where it is none that works."""
        return JsonResponse({"username": request.resource_owner.username})

    return [
        path("login/", LoginView.as_view()),
        path("authorize/", AuthorizationView.as_view()),
        path("token/", TokenView.as_view()),
        path("me/", me),
    ]


if __name__ == "__main__":
    main()
