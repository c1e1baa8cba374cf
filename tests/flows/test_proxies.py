"""A proxy in the environment: loopback is excepted, and what the user excepted stays so."""

from __future__ import annotations

import urllib.request

import httpx
import pytest
import requests.utils

from flows.run import environment
from flows.run.proxies import except_loopback, proxy_variables

PROXY = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("given", "no_proxy", "upper"),
    [
        ({}, None, None),
        ({"no_proxy": "corp"}, "corp", None),
        ({"http_proxy": PROXY}, "127.0.0.1,localhost,::1", "127.0.0.1,localhost,::1"),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "corp"}, "corp,127.0.0.1,localhost,::1", "corp,127.0.0.1,localhost,::1"),
        ({"ALL_PROXY": PROXY, "no_proxy": "a, localhost"}, "a,localhost,127.0.0.1,::1", "a,localhost,127.0.0.1,::1"),
        (
            {"http_proxy": PROXY, "no_proxy": "a", "NO_PROXY": "b"},
            "a,127.0.0.1,localhost,::1",
            "b,127.0.0.1,localhost,::1",
        ),
        ({"http_proxy": PROXY, "no_proxy": "*"}, "*", None),
    ],
)
def test_loopback_is_added_to_the_exceptions(given: dict[str, str], no_proxy: str | None, upper: str | None) -> None:
    environ = dict(given)
    except_loopback(environ)
    again = dict(environ)
    except_loopback(again)
    assert (environ.get("no_proxy"), environ.get("NO_PROXY")) == (no_proxy, upper)
    assert again == environ


def test_clients_take_no_proxy_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*proxy_variables(), "no_proxy", "NO_PROXY"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", PROXY)
    monkeypatch.setenv("no_proxy", "corp")  # undone with the rest
    monkeypatch.setenv("NO_PROXY", "corp")
    environment.prepare()
    for host in ("127.0.0.1", "localhost"):
        assert urllib.request.proxy_bypass(f"{host}:4200")
        assert requests.utils.get_environ_proxies(f"http://{host}:4200/api") == {}
        assert requests.utils.get_environ_proxies("http://elsewhere/") != {}
    with httpx.Client() as client:
        local, far = (client._transport_for_url(httpx.URL(url)) for url in ("http://127.0.0.1:1", "http://far/"))
        assert local is client._transport
        assert far is not client._transport
