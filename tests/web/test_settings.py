"""Settings: what is missing stops the start by name; production's pass Django's own deployment checks."""

import json

import pytest

SHOW = (
    "import json, sys; from kubespan_web import settings;"
    " print(json.dumps({name: getattr(settings, name) for name in sys.argv[1:]}, default=str))"
)


def show(python, *names, **environ):
    ran = python("-c", SHOW, *names, **environ)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.parametrize("name", ["KUBESPAN_SECRET_KEY", "KUBESPAN_KEYS", "REDIS_URL"])
def test_a_missing_setting_stops_the_start_with_its_name(python, production, name):
    ran = python("manage.py", "check", **{key: value for key, value in production.items() if key != name})
    assert (ran.returncode, ran.stderr.strip()) == (1, f"set {name} or {name}_FILE")


def test_without_any_place_for_rows_the_start_says_so(python, production):
    environ = {key: value for key, value in production.items() if key != "DATABASE_URL"}
    ran = python("-c", "import kubespan_web.settings", **environ)
    assert (ran.returncode, ran.stderr.strip()) == (
        1,
        "set DATABASE_URL, or KUBESPAN_DATA for the embedded database",
    )


def test_a_wrong_key_is_named_and_not_shown(python, production):
    ran = python("-c", "import kubespan_web.settings", **production | {"KUBESPAN_KEYS": "old:c2VjcmV0"})
    assert ran.returncode == 1
    assert "key old" in ran.stderr
    assert "c2VjcmV0" not in ran.stderr


def test_production_passes_the_deployment_checks(python, production):
    ran = python("-W", "error", "manage.py", "check", "--deploy", "--fail-level", "WARNING", **production)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_no_migration_is_missing(python, production, tmp_path):
    environ = production | {"DATABASE_URL": f"sqlite:///{tmp_path}/rows"}
    ran = python("manage.py", "makemigrations", "--check", "--dry-run", **environ)
    assert ran.returncode == 0, ran.stdout


def test_the_embedded_database(python, production, tmp_path):
    environ = {key: value for key, value in production.items() if key != "DATABASE_URL"}
    database = show(python, "DATABASES", **environ, KUBESPAN_DATA=str(tmp_path))["DATABASES"]["default"]
    assert database["NAME"] == f"{tmp_path}/console.sqlite3"
    assert database["OPTIONS"]["transaction_mode"] == "IMMEDIATE"


BEAT = (
    "from kubespan_web.celery import app; beat = app.Beat();"
    " service = beat.Service(app=app, scheduler_cls=beat.scheduler_cls, schedule_filename=beat.schedule);"
    " print(*service.scheduler.schedule)"
)


@pytest.mark.parametrize(
    ("kept", "files"),
    [pytest.param(None, [], id="in memory"), pytest.param("data", ["beat"], id="in its own directory")],
)
def test_when_tasks_ran_last_is_kept_in_no_directory_of_everybodys(python, production, tmp_path, kept, files):
    """It would be read as pickles: whoever writes there first would run what they like."""
    (tmp_path / "data").mkdir()
    environ = production | {"TMPDIR": str(tmp_path)}
    ran = python("-c", BEAT, **environ | ({"KUBESPAN_DATA": str(tmp_path / kept)} if kept else {}))
    assert ran.returncode == 0, ran.stderr
    assert "note history" in ran.stdout
    assert [path.name.partition(".")[0] for path in tmp_path.iterdir()] == ["data"]
    assert sorted({path.name.partition(".")[0] for path in (tmp_path / "data").iterdir()}) == files


def test_a_unix_socket_has_another_name_for_celery(python, production):
    shown = show(python, "CELERY_BROKER_URL", **production | {"REDIS_URL": "unix:///run/valkey.sock"})
    assert shown == {"CELERY_BROKER_URL": "redis+socket:///run/valkey.sock"}


@pytest.mark.parametrize(
    ("given", "hosts"),
    [
        pytest.param({}, ["console.example"], id="one address for all"),
        pytest.param(
            {"KUBESPAN_AGENT_URL": "https://agents.example:8443"}, ["console.example", "agents.example"], id="agents"
        ),
        pytest.param({"KUBESPAN_URL": "https://[2001:db8::1]:8443"}, ["[2001:db8::1]"], id="IPv6"),
        pytest.param(
            {"KUBESPAN_URL": "http://127.0.0.1:8000"}, ["127.0.0.1", "localhost", "[::1]"], id="on this machine"
        ),
        pytest.param({"ALLOWED_HOSTS": "a.example, b.example"}, ["a.example", "b.example"], id="as told"),
    ],
)
def test_the_console_answers_to_the_names_of_its_addresses(python, production, given, hosts):
    assert show(python, "ALLOWED_HOSTS", **production | given) == {"ALLOWED_HOSTS": hosts}


@pytest.mark.parametrize(
    ("given", "url"),
    [
        pytest.param({}, "https://console.example:3000/", id="beside the console"),
        pytest.param(
            {"KUBESPAN_AGENT_URL": "https://agents.example:8443"}, "https://agents.example:3000/", id="agents"
        ),
        pytest.param({"KUBESPAN_URL": "https://[2001:db8::1]:8443"}, "https://[2001:db8::1]:3000/", id="IPv6"),
        pytest.param({"KUBESPAN_URL": "http://127.0.0.1:8000"}, "http://127.0.0.1:3000/", id="on this machine"),
        pytest.param({"DISCOVERY_URL": "https://d.example"}, "https://d.example/", id="as told"),
        pytest.param({"DISCOVERY_URL": "http://10.0.0.1:3000/"}, "http://10.0.0.1:3000/", id="plain, as told"),
    ],
)
def test_where_talos_machines_find_discovery(python, production, given, url):
    assert show(python, "DISCOVERY_URL", **production | given) == {"DISCOVERY_URL": url}


@pytest.mark.parametrize("issuer", ["https://accounts.example.com", "https://accounts.example.com/"])
def test_an_issuer_may_end_with_a_slash(python, production, issuer):
    """Which is none of the address of the provider's description, and is kept to compare with what that says."""
    given = {"OIDC_ISSUER": issuer, "OIDC_CLIENT_ID": "console", "OIDC_CLIENT_SECRET": "secret"}
    shown = show(python, "OIDC_ISSUER", "SOCIALACCOUNT_PROVIDERS", **production | given)
    (app,) = shown["SOCIALACCOUNT_PROVIDERS"]["openid_connect"]["APPS"]
    assert (shown["OIDC_ISSUER"], app["settings"]) == (issuer, {"server_url": "https://accounts.example.com"})


def test_cookies_are_only_for_tls_where_the_console_has_it(python, production):
    names = ("SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE", "SECURE_SSL_REDIRECT", "SECURE_HSTS_SECONDS")
    assert all(show(python, *names, **production).values())
    assert not any(show(python, *names, **production | {"KUBESPAN_URL": "http://127.0.0.1:8000"}).values())


def test_all_web_processes_share_one_cache(python, production):
    caches = show(python, "CACHES", **production | {"REDIS_URL": "unix:///run/valkey.sock"})["CACHES"]
    assert (caches["default"]["BACKEND"], caches["default"]["LOCATION"]) == (
        "nodes.cache.ForgetfulCache",
        "unix:///run/valkey.sock",
    )
