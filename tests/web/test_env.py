"""What the environment says, and how it is refused."""

import pytest

from kubespan_web import env

KEY = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="


def test_a_value_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("SOMETHING", "here")
    assert env.env("SOMETHING") == "here"


def test_a_file_goes_before_the_environment(monkeypatch, tmp_path):
    (tmp_path / "secret").write_text("there\n")
    monkeypatch.setenv("SOMETHING", "here")
    monkeypatch.setenv("SOMETHING_FILE", str(tmp_path / "secret"))
    assert env.env("SOMETHING") == "there"


@pytest.mark.parametrize(
    ("read", "value", "sentence"),
    [
        pytest.param(env.env, None, "set SOMETHING or SOMETHING_FILE", id="missing"),
        pytest.param(env.env, "", "set SOMETHING or SOMETHING_FILE", id="empty"),
        pytest.param(env.secret_key, "short", "SOMETHING: expected at least 50 characters", id="short secret key"),
        pytest.param(env.flag, "perhaps", "SOMETHING: expected yes or no", id="no switch"),
        pytest.param(lambda name: env.number(name, 1), "0", "SOMETHING: expected a whole number above 0", id="nought"),
        pytest.param(lambda name: env.number(name, 1), "1e3", "SOMETHING: expected a whole number above 0", id="odd"),
        pytest.param(env.keys, KEY, "SOMETHING: entry 1: expected NAME:KEY with a name of its own", id="nameless key"),
        pytest.param(
            env.keys, f"a:{KEY},a:{KEY}", "SOMETHING: entry 2: expected NAME:KEY with a name of its own", id="twin keys"
        ),
        pytest.param(env.keys, "a:AAAA", "SOMETHING: key a: expected 32 bytes in URL-safe base64", id="short key"),
        pytest.param(env.keys, "a:é", "SOMETHING: key a: expected 32 bytes in URL-safe base64", id="no base64"),
        pytest.param(
            lambda name: env.choice(name, "known", "all"), "ALL", "SOMETHING: expected known or all", id="another word"
        ),
        *(
            pytest.param(
                lambda name: env.service_url(name, ""),
                value,
                "SOMETHING: expected https://HOST[:PORT], or http://HOST[:PORT] where it is plain",
                id=f"no service: {value}",
            )
            for value in (
                "d.example",
                "grpc://d.example",
                "https://",
                "https://d.example/a",
                "https://d:x",
                "http://a b",
            )
        ),
        pytest.param(env.networks, "10.0.0.1/8", "SOMETHING: 10.0.0.1/8 has host bits set", id="host bits"),
    ],
)
def test_what_is_wrong_is_named(monkeypatch, read, value, sentence):
    if value is None:
        monkeypatch.delenv("SOMETHING", raising=False)
    else:
        monkeypatch.setenv("SOMETHING", value)
    with pytest.raises(env.SettingsError) as refusal:
        read("SOMETHING")
    assert str(refusal.value) == sentence


def test_a_file_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("SOMETHING_FILE", str(tmp_path / "none"))
    with pytest.raises(env.SettingsError, match=r"SOMETHING_FILE: .*/none: No such file or directory"):
        env.env("SOMETHING")


def test_the_first_word_of_a_choice_is_the_default(monkeypatch):
    monkeypatch.delenv("SOMETHING", raising=False)
    assert env.choice("SOMETHING", "known", "all") == "known"
    monkeypatch.setenv("SOMETHING", "all")
    assert env.choice("SOMETHING", "known", "all") == "all"


def test_keys_keep_their_order(monkeypatch):
    monkeypatch.setenv("SOMETHING", f"new:{KEY}, old:{KEY}")
    assert list(env.keys("SOMETHING")) == ["new", "old"]


@pytest.mark.parametrize(
    "url", ["https://console.example", "https://console.example:8443", "http://127.0.0.1:8000", "http://[::1]:8000"]
)
def test_base_url(monkeypatch, url):
    monkeypatch.setenv("SOMETHING", url + "/")
    assert env.base_url("SOMETHING", "") == url


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("http://console.example", id="plain HTTP beyond loopback"),
        pytest.param("console.example", id="no scheme"),
        pytest.param("https://console.example/below", id="a path"),
        pytest.param("https://someone@console.example", id="a user"),
    ],
)
def test_base_url_refused(monkeypatch, url):
    monkeypatch.setenv("SOMETHING", url)
    with pytest.raises(env.SettingsError, match=r"^SOMETHING: "):
        env.base_url("SOMETHING", "")
