"""No secret is shown: whatever it is made of, wherever it stands in a text, and nothing else is hidden."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.core import secrets
from tasks.core.errors import InputError
from tasks.core.secrets import address, mask_error, masked, masked_within, shown
from tasks.settings import load_settings

PRINTABLE = st.characters(categories=["L", "M", "N", "P", "S"]) | st.just(" ")
WORDS = st.text("abcdefgxyz0123456789", min_size=8, max_size=14).map(lambda text: f"kanari{text}")
PASSWORDS = st.tuples(WORDS, st.text("/@:%?#&=+$!~*'()", max_size=4), WORDS).map("".join)
TOKENS = st.tuples(WORDS, st.text("@%+$!~*", max_size=3), WORDS).map("".join)
SCHEMES = st.sampled_from(["http", "https", "postgresql+psycopg", "redis", "s3", "mysql"])
KEYS = st.sampled_from(
    [
        "X-Amz-Signature",
        "X-Amz-Credential",
        "X-Goog-Signature",
        "Signature",
        "sig",
        "AWSAccessKeyId",
        "token",
        "key",
        "access_token",
        "api_key",
        "apikey",
        "password",
        "secret_key",
        "code",
    ]
)
AROUND = st.sampled_from([("", ""), ("cannot open ", ": gone"), ("['", "']"), ('{"uri": "', '"}'), ("(", ") failed")])


def parts(secret: str) -> list[str]:
    """The pieces of the secret that would give it away."""
    return [secret[:12], secret[-12:]]


@given(SCHEMES, PASSWORDS, st.sampled_from(["/db", ":5432/db?x=1", ""]), AROUND)
@example("postgresql", "kanariaaaaaaaa/@:%kanaribbbbbbbb", "/db", ("", ""))
def test_the_password_of_a_url_is_never_shown(scheme: str, password: str, rest: str, around: tuple[str, str]) -> None:
    for written in (password, quote(password, safe="")):
        text = masked(f"{around[0]}{scheme}://me:{written}@host{rest}{around[1]}")
        assert [part for part in parts(password) if part in text] == []
        assert f"{scheme}://me:***@host{rest}" in text


@given(SCHEMES, TOKENS, AROUND)
def test_a_token_before_the_host_is_never_shown(scheme: str, token: str, around: tuple[str, str]) -> None:
    for written in (token, quote(token, safe=""), f":{token}"):
        text = masked(f"{around[0]}{scheme}://{written}@host/x{around[1]}")
        assert [part for part in parts(token) if part in text] == []
        assert f"{scheme}://***@host/x" in text


@given(KEYS, WORDS, st.booleans(), AROUND)
def test_the_value_of_a_query_key_named_like_a_secret_is_never_shown(
    key: str, value: str, first: bool, around: tuple[str, str]
) -> None:
    query = f"?{key}={value}&x=1" if first else f"?x=1&{key}={value}"
    text = masked(f"{around[0]}https://host/path{query}{around[1]}")
    assert value not in text
    assert "https://host/path?" in text
    assert "x=1" in text


@given(st.text(PRINTABLE, min_size=8, max_size=30).filter(lambda v: len(v.strip()) > 7))
@example('with "quotes" and \\')
@example("a/b+c=d e@f:g%20")
def test_what_a_variable_named_like_a_secret_holds_is_never_shown(value: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOMEBODYS_API_KEY", value)
        for text in (value, f"tried {value}, then", quote(value, safe=""), json.dumps({"note": value})):
            assert value not in masked(text)
            assert "***" in masked(text)


@given(SCHEMES, PASSWORDS, AROUND)
def test_masking_twice_is_masking_once(scheme: str, password: str, around: tuple[str, str]) -> None:
    once = masked(f"{around[0]}{scheme}://me:{password}@host?sig={password}{around[1]}")
    assert masked(once) == once


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("http://u:pw@host/x and http://v@host", "http://u:***@host/x and http://***@host"),
        ("redis://:pw@h:1", "redis://***@h:1"),
        ("postgresql://u:p@s/s:w@host/db", "postgresql://u:***@host/db"),
        ("key AKIAIOSFODNN7EXAMPLE is unknown", "key *** is unknown"),
        ("aws_secret_access_key = abc/def+g", "aws_secret_access_key = ***"),
        ('{"password": "hush", "user": "me"}', '{"password": "***", "user": "me"}'),
        ("Authorization: Bearer abc.def", "Authorization: ***"),
        ("GET /k?X-Amz-Signature=1f2e&x=1", "GET /k?X-Amz-Signature=***&x=1"),
    ],
)
def test_what_looks_like_a_secret_is_masked(text: str, result: str) -> None:
    assert masked(text) == result


@pytest.mark.parametrize(
    "text",
    [
        "http://host:5000/api?page=2&sort=keyword",
        "s3://bucket/reviews?endpoint_override=127.0.0.1:9000&scheme=http",
        "s3://bucket/2015/part@2.json",
        "sqlite:///mlruns/mlflow.db",
        "775,000 tokens: 4.1 M tokens/s",
        "NoCredentialsError: Unable to locate credentials",
        'password authentication failed for user "x"',
        "write to me@example.org",
    ],
)
def test_what_is_no_secret_is_left(text: str) -> None:
    assert masked(text) == text


def test_a_short_secret_does_not_mask_the_words_that_contain_it() -> None:
    secrets.remember("a", "on")
    assert masked("a man on the moon") == "a man on the moon"


def test_the_secret_settings_are_known_once_they_are_loaded() -> None:
    load_settings(
        overrides=["services.auth=admin:correct-horse", "notify.webhook=https://hooks.test/services/T0/B0/xyz"]
    )
    assert masked("admin:correct-horse, correct-horse") == "***, ***"
    assert masked("posted to https://hooks.test/services/T0/B0/xyz") == "posted to ***"


def test_an_error_masks_itself_and_foreign_errors_can_be_masked() -> None:
    error = InputError("s3://k:kanari-secret@b is away", where="http://kanari-token@host", fix="look")
    assert str(error) == "http://***@host: s3://k:***@b is away\n  → look"
    foreign = ConnectionError("no answer from http://me:kanari@host")
    mask_error(foreign)
    assert str(foreign) == "no answer from http://me:***@host"


def test_a_copy_for_others_holds_no_secret_and_the_settings_still_do() -> None:
    settings = load_settings(
        overrides=["tracking.uri=http://kanari-token@host:5000", "tune.storage=postgresql://u:kanari-pw@h/d"],
        data={"input": ["s3://K:kanari-key@b/x", "reviews"]},
    )
    copy = shown(settings)
    assert "kanari" not in repr(copy)
    assert "kanari" not in copy.model_dump_json()
    assert (copy.tracking.uri, copy.data.input) == ("http://***@host:5000", ["s3://K:***@b/x", "reviews"])
    assert settings.tune.storage.get_secret_value() == "postgresql://u:kanari-pw@h/d"


def test_a_record_is_masked_to_its_leaves() -> None:
    record = {"n": 1, "at": [{"uri": "http://kanari@h"}, ("x", None)], "password": True}
    assert masked_within(record) == {"n": 1, "at": [{"uri": "http://***@h"}, ("x", None)], "password": True}


def test_an_address_to_follow_has_no_user_info() -> None:
    assert address("https://me:kanari@host:5000/x?sig=kanari") == "https://host:5000/x?sig=***"
