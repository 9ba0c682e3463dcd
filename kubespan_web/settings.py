"""Django's settings, for every place alike: what differs comes from the environment (see env.py)."""

from __future__ import annotations

from pathlib import Path

import dj_database_url
from redis.backoff import NoBackoff
from redis.retry import Retry

from kubespan_web import logs
from kubespan_web.env import (
    SettingsError,
    base_url,
    choice,
    env,
    flag,
    host_of,
    keys,
    networks,
    number,
    secret_key,
    service_url,
    words,
)

BASE_DIR = Path(__file__).resolve().parent.parent

# ------------------------------------------------------------------------------------------------ who and where we are

SECRET_KEY = secret_key("KUBESPAN_SECRET_KEY")
KUBESPAN_KEYS = keys("KUBESPAN_KEYS")  # name → Fernet key; the first encrypts, all decrypt
KUBESPAN_URL = base_url("KUBESPAN_URL", "http://127.0.0.1:8000")
KUBESPAN_AGENT_URL = base_url("KUBESPAN_AGENT_URL", KUBESPAN_URL)  # where agents find the console, if elsewhere
EMBEDDED = bool(env("KUBESPAN_DATA", ""))
KUBESPAN_DATA = Path(env("KUBESPAN_DATA", str(BASE_DIR / "build")))  # nothing is kept there but where EMBEDDED
AGENT_FILES = Path(env("KUBESPAN_AGENT_FILES", str(BASE_DIR / "build" / "agent")))  # made by `make agent`
REDIS_URL = env("REDIS_URL")
TRUSTED_PROXIES = networks("TRUSTED_PROXIES")  # whose X-Forwarded-* are believed; asgi.py
DISCOVERY_SERVE = choice("DISCOVERY_SERVE", "known", "all")  # clusters of this console, or `all`
DISCOVERY_CLUSTERS = number("DISCOVERY_CLUSTERS", 10_000)  # the most, where any are served
DISCOVERY_AFFILIATES = number("DISCOVERY_AFFILIATES", 100_000)  # the most over all clusters, of at most 5 KB each
DISCOVERY_REDIRECT = env("DISCOVERY_REDIRECT", "")  # host:port that every client is sent to instead
# Where machines find discovery: patches name it, and carry what Talos must trust for it (a file, PEM); agents ask there
# while the console is away.
DISCOVERY_URL = service_url(
    "DISCOVERY_URL", f"{KUBESPAN_AGENT_URL.partition(':')[0]}://{host_of(KUBESPAN_AGENT_URL)}:3000"
)
DISCOVERY_ROOTS = env("DISCOVERY_ROOTS", "")
# Where webhooks may lead besides public addresses: networks, such as 10.1.0.0/16.
WEBHOOK_NETWORKS = networks("WEBHOOK_NETWORKS")
DEBUG = flag("KUBESPAN_DEBUG")
SECURE = KUBESPAN_URL.startswith("https:")

_hosts = [host_of(KUBESPAN_URL), host_of(KUBESPAN_AGENT_URL), *([] if SECURE else ["localhost", "127.0.0.1", "[::1]"])]
ALLOWED_HOSTS = words("ALLOWED_HOSTS", ",".join(dict.fromkeys(_hosts)))

# --------------------------------------------------------------------------------------------------------------- parts

INSTALLED_APPS = [
    "nodes",
    "nodes.admin_site.ConsoleAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.openid_connect",
    "allauth.usersessions",
    "channels",
    "csp",
    "django_filters",
    "django_htmx",
    "django_structlog",
    "django_tables2",
]

MIDDLEWARE = [
    "nodes.health.middleware",  # first: probes come by address, without TLS, and must not depend on what follows
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "nodes.bearer.BearerTokens",
    "django.contrib.messages.middleware.MessageMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "nodes.accounts.second_factor.middleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "nodes.health.RequestLog",
    "django_htmx.middleware.HtmxMiddleware",
    "nodes.health.DatabaseAway",  # last: it answers for views alone
]

ROOT_URLCONF = "kubespan_web.urls"
ASGI_APPLICATION = "kubespan_web.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]

# ------------------------------------------------------------------------------------------------------ rows, and Redis


def _database() -> dict[str, object]:
    url = env("DATABASE_URL", "")
    if not url:
        if not EMBEDDED:
            raise SettingsError("set DATABASE_URL, or KUBESPAN_DATA for the embedded database")
        url = f"sqlite:///{KUBESPAN_DATA / 'console.sqlite3'}"
    database: dict[str, object] = dict(dj_database_url.parse(url, conn_max_age=60, conn_health_checks=True))
    if database["ENGINE"] == "django.db.backends.sqlite3":
        database["OPTIONS"] = {
            # Writers queue for the lock when they begin, and so never deadlock on the way from reading to writing.
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,  # seconds that a writer waits for another
            # A request's connection is new, and has read nothing yet: it looks at what the system holds of the file.
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON; "
            "PRAGMA mmap_size=268435456; PRAGMA cache_size=-16000;",
        }
        # Several threads and processes of a test share it, which they could not if it were in memory.
        database["TEST"] = {"NAME": str(Path(str(database["NAME"])).with_name("test.sqlite3"))}
    return database


DATABASES = {"default": _database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# What all web processes count together (guesses at the door); never a secret. Emptying it would empty all of Redis.
# While Redis is away it holds nothing, and nobody counts.
CACHES = {
    "default": {
        "BACKEND": "nodes.cache.ForgetfulCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": "kubespan:cache",
        # Seconds, and one retry at once, as for our own connections (nodes/connections.py).
        "OPTIONS": {"socket_timeout": 5, "socket_connect_timeout": 5, "retry": Retry(NoBackoff(), 1)},
    }
}

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [REDIS_URL], "prefix": "kubespan:channels"},
    }
}

# -------------------------------------------------------------------------------------------------------------- Celery

# Celery's name for a Unix socket differs from everybody else's.
CELERY_BROKER_URL = REDIS_URL.replace("unix://", "redis+socket://", 1)
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None  # for ever, however long Redis is away; celery.py says how often
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "global_keyprefix": "kubespan:celery:",
    # A worker killed in a task gives it up after so many seconds; all tasks are short and may run twice.
    "visibility_timeout": 120,
    "socket_connect_timeout": 5,
}
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_PUBLISH_RETRY_POLICY = {"max_retries": 2, "interval_start": 0.1, "interval_step": 0.2, "interval_max": 0.5}
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_POOL = "threads"
CELERY_WORKER_CONCURRENCY = 4
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False
# When each task ran last; may be lost, for none comes less often than every ten minutes. It is read as pickles: so it
# is in a directory of our own, or in memory.
CELERY_BEAT_SCHEDULER = "celery.beat:PersistentScheduler" if EMBEDDED else "celery.beat:Scheduler"
CELERY_BEAT_SCHEDULE_FILENAME = str(KUBESPAN_DATA / "beat")
CELERY_TIMEZONE = "UTC"
DJANGO_STRUCTLOG_CELERY_ENABLED = True

# -------------------------------------------------------------------------------------------------------------- people

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "overview"
LOGOUT_REDIRECT_URL = "account_login"

ACCOUNT_ADAPTER = "nodes.accounts.adapter.AccountAdapter"
ACCOUNT_LOGIN_METHODS = {"username"}
ACCOUNT_SIGNUP_FIELDS = ["username*", "password1*", "password2*"]  # nobody does; invitations let people in
ACCOUNT_EMAIL_VERIFICATION = "none"  # the console sends no mail
ACCOUNT_UNIQUE_EMAIL = False
ACCOUNT_SESSION_REMEMBER = True  # for SESSION_COOKIE_AGE
ACCOUNT_REAUTHENTICATION_TIMEOUT = 300
ACCOUNT_REAUTHENTICATION_METHODS = ("password", "mfa")  # no code by mail, for there is none
# Failed attempts: of one address, and of one address at one name (nodes/accounts/adapter.py).
ACCOUNT_RATE_LIMITS = {"login_failed": "60/m/ip,10/5m/key", "login": "120/m/ip"}
ACCOUNT_FORMS = {
    "login": "nodes.accounts.forms.SignInForm",
    "reauthenticate": "nodes.accounts.forms.ConfirmForm",
    "change_password": "nodes.accounts.forms.ChangePasswordForm",
    "set_password": "nodes.accounts.forms.SetPasswordForm",
}
MFA_ADAPTER = "nodes.accounts.adapter.SecondFactorAdapter"
MFA_SUPPORTED_TYPES = ["totp", "webauthn", "recovery_codes"]
MFA_PASSKEY_LOGIN_ENABLED = True
MFA_TOTP_ISSUER = "KubeSpan"
MFA_TOTP_TOLERANCE = 1  # of 30 seconds, before and after
MFA_RECOVERY_CODES_SHOW_ONCE = True
MFA_ALLOW_UNVERIFIED_EMAIL = True
MFA_WEBAUTHN_ALLOW_INSECURE_ORIGIN = not SECURE
MFA_FORMS = {
    "authenticate": "nodes.accounts.forms.SecondFactorForm",
    "reauthenticate": "nodes.accounts.forms.ConfirmByCodeForm",
    "activate_totp": "nodes.accounts.forms.ActivateAppForm",
    "add_webauthn": "nodes.accounts.forms.AddKeyForm",
    "edit_webauthn": "nodes.accounts.forms.RenameKeyForm",
}
SECOND_FACTOR = choice("SECOND_FACTOR", "optional", "administrators", "everybody")  # who must have one

# Single sign-on: one provider that speaks OpenID Connect.
OIDC_ISSUER = env("OIDC_ISSUER", "")
OIDC_NAME = env("OIDC_NAME", "single sign-on")  # on the button: "Continue with …"
OIDC_ROLE = choice("OIDC_ROLE", "invited", "viewer", "operator")  # of whoever signs in so and was not invited
SOCIALACCOUNT_ADAPTER = "nodes.accounts.adapter.SignOnAdapter"
SOCIALACCOUNT_LOGIN_ON_GET = True  # linking it to an account needs more: nodes/accounts/views.py
SOCIALACCOUNT_AUTO_SIGNUP = True
SOCIALACCOUNT_STORE_TOKENS = False
SOCIALACCOUNT_PROVIDERS = {
    "openid_connect": {
        "OAUTH_PKCE_ENABLED": True,
        "APPS": [
            {
                "provider_id": "sso",
                "name": OIDC_NAME,
                "client_id": env("OIDC_CLIENT_ID"),
                "secret": env("OIDC_CLIENT_SECRET"),
                # Some issuers end with a slash, which is none of the address that is made of it.
                "settings": {"server_url": OIDC_ISSUER.rstrip("/")},
            }
        ]
        if OIDC_ISSUER
        else [],
    }
}

LANGUAGE_CODE = "en"
USE_I18N = False
TIME_ZONE = "UTC"
USE_TZ = True

# ------------------------------------------------------------------------------------------------------------- browsers

STATIC_URL = "static/"
STATIC_ROOT = env("STATIC_ROOT", str(KUBESPAN_DATA / "static"))
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"
    },
}
WHITENOISE_USE_FINDERS = DEBUG
WHITENOISE_AUTOREFRESH = DEBUG

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'none'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "font-src": ["'self'"],
        "connect-src": ["'self'"],
        "form-action": ["'self'"],
        "frame-ancestors": ["'none'"],
        "base-uri": ["'none'"],
    }
}
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"
SECURE_SSL_REDIRECT = SECURE
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if SECURE else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE
SESSION_COOKIE_SECURE = SECURE
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_AGE = 12 * 3600
CSRF_COOKIE_SECURE = SECURE
CSRF_COOKIE_HTTPONLY = True  # scripts read the token from the page
CSRF_TRUSTED_ORIGINS = [KUBESPAN_URL]
# Preloading is a promise to browsers' makers for a whole domain; that is its owner's to give.
SILENCED_SYSTEM_CHECKS = ["security.W021"]
# An agent's enrolment request is a few kB. Talos files have secrets of all kinds, and never touch a disk.
DATA_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024
DATA_UPLOAD_MAX_NUMBER_FILES = 3  # of 1 MiB each: a control plane's, a worker's, and the secrets bundle
FILE_UPLOAD_MAX_MEMORY_SIZE = 4 * 1024 * 1024  # a larger request would be spooled
FILE_UPLOAD_HANDLERS = ["nodes.uploads.InMemory"]

DJANGO_TABLES2_TEMPLATE = "django_tables2/table.html"

# ---------------------------------------------------------------------------------------------------------------- logs

LOGGING = logs.configure(env("LOG_FORMAT", "console"), env("LOG_LEVEL", "INFO").upper())
