"""Opening and reading an address: every failure is either told to the user or worth another attempt."""

import errno
import http.client
import json
import re
import socket
import ssl
import time
from email.utils import mktime_tz, parsedate_tz
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from coread import __version__

TIMEOUT_S = 60.0
CHUNK_BYTES = 1 << 18
UNTOLD_LIMIT_PAUSE_S = 60.0  # limits of requests count minutes
PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.ECONNREFUSED})
REFUSAL = {401: "it wants a login", 403: "the server refuses it", 404: "there is no such file", 410: "it was removed"}


class DownloadError(OSError):
    """A file cannot be had; the message names it and what to do."""


class OfflineError(DownloadError):
    """A file cannot be had because there is no way to its server."""


class BrokenConnectionError(OSError):
    """A transfer ended early for a reason that may pass."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnreachableError(BrokenConnectionError):
    """There is no way to the server, as without a network."""


def opened(url: str, headers: dict[str, str] | None = None) -> Any:
    """Return the open answer of an http, https or file address.

    Raises DownloadError, BrokenConnectionError, or HTTPError 416 where a range was asked for.
    """
    if urlsplit(url).scheme not in ("http", "https", "file"):
        raise DownloadError(f"{url}: only http, https and file addresses can be fetched")
    request = Request(url, headers={"User-Agent": f"coread/{__version__}", **(headers or {})})
    try:
        response = urlopen(request, timeout=TIMEOUT_S)
    except HTTPError as error:
        raise _answered(url, error) from None
    except URLError as error:
        raise _failed(url, error.reason) from error
    except (OSError, http.client.HTTPException) as error:
        raise _failed(url, error) from error
    _check_is_file(url, response)
    return response


def read_chunk(url: str, response: Any) -> bytes:
    """Return the next bytes of an answer, none at its end; raises BrokenConnectionError."""
    try:
        return bytes(response.read(CHUNK_BYTES))
    except (OSError, http.client.HTTPException) as error:
        raise BrokenConnectionError(f"{url}: the connection broke ({error!r})") from error


def read_json(url: str) -> tuple[Any, str | None]:
    """Return the parsed answer and the address of the next page, if any; raises as `opened` and `read_chunk` do."""
    with opened(url, {"Accept": "application/json"}) as response:
        length, text = total_bytes(response, 0), b""
        while chunk := read_chunk(url, response):
            text += chunk
        link = re.search(r'<([^>]+)>;\s*rel="?next"?', response.headers.get("Link", ""))
    if length is not None and len(text) < length:
        raise BrokenConnectionError(f"{url}: the connection ended after {len(text)} of {length} bytes")
    try:
        return json.loads(text), link and link[1]
    except ValueError:
        raise DownloadError(f"{url}: the answer is not JSON") from None


def total_bytes(response: Any, start: int) -> int | None:
    """Return the size of the whole file according to an answer that begins at byte `start`; None if it is not said."""
    length = response.headers.get("Content-Length")
    return None if length is None else start + int(length)


def _answered(url: str, error: HTTPError) -> OSError:
    if error.code == 416:
        return error
    said = f"{url}: {error.code} {error.reason}"
    if error.code in PASSING_STATUS:
        return BrokenConnectionError(said, _asked_pause(error))
    return DownloadError(f"{said}: {REFUSAL.get(error.code, 'it cannot be fetched')}")


def _asked_pause(error: HTTPError) -> float | None:
    """Return how many seconds a server asks to wait: `Retry-After` (RFC 9110) or `RateLimit`, as the hub has it."""
    after = error.headers.get("Retry-After", "").strip()
    if after.isdecimal():
        return float(after)
    if after and (until := parsedate_tz(after)) is not None:
        return max(0.0, mktime_tz(until) - time.time())
    if (limit := re.search(r"\bt\s*=\s*(\d+)", error.headers.get("RateLimit", ""))) is not None:
        return float(limit[1]) + 1.0
    return UNTOLD_LIMIT_PAUSE_S if error.code == 429 else None


def _failed(url: str, reason: Any) -> OSError:
    if isinstance(reason, ssl.SSLCertVerificationError):
        return DownloadError(f"{url}: the server's certificate is not trusted ({reason.verify_message})")
    if urlsplit(url).scheme == "file":
        return DownloadError(f"{url}: cannot be read ({reason})")
    if isinstance(reason, socket.gaierror) or getattr(reason, "errno", None) in NO_ROUTE:
        return UnreachableError(f"{url}: cannot reach {urlsplit(url).netloc} ({reason})")
    return BrokenConnectionError(f"{url}: the connection failed ({reason!r})")


def _check_is_file(url: str, response: Any) -> None:
    """Refuse a web page (a login, a network's welcome page) that comes in place of a file."""
    path = urlsplit(url).path
    kind = str(response.headers.get("Content-Type", ""))
    if kind.startswith("text/html") and urlsplit(url).scheme != "file" and not path.endswith((".html", ".htm")):
        response.close()
        raise DownloadError(f"{url}: a web page came instead of the file; is there a login before the network?")
