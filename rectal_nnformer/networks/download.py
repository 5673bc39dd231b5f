"""Downloading a published pretrained file: resumed after a cut, verified, and into place in one step.

What has come lies beside the file's place under a hidden name, which holds a digest of the version on the server, so
that pieces of two versions are never joined.
"""

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

import requests
from tqdm import tqdm

from rectal_nnformer.errors import RectalError
from rectal_nnformer.networks.pretrained_files import DOCUMENTATION, WEIGHTS_VARIABLE, PretrainedFile, md5_of
from rectal_nnformer.utils.files import check_space, locked
from rectal_nnformer.utils.text import file_size

TIMEOUT = (30, 60)
"""Seconds to wait for a connection, and for the next bytes."""
SECONDS_BEFORE_RESUMING = 2.0
CHUNK_BYTES = 1 << 16
SIZE_TOLERANCE = 0.06
"""Published sizes are rounded, and of megabytes of 1000 or of 1024 KB."""

_CUT = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
"""What a transfer ends by that can go on; the refusal of a server is none of them."""


def download(file: PretrainedFile, folder: Path) -> Path:
    """Download a published file that has an address into a folder, made if need be, and return its path.

    Proxies are taken from the environment. A transfer that is cut goes on where it stopped: at once, and where the
    server is gone, in the next call. Nothing has the file's name before all of it is there with the published MD5.

    Raises:
        RectalError: The server cannot be reached, refuses, or offers something else; the MD5 is wrong; the folder
            cannot be written to, or its disk is too small; or another process downloads the file.
    """
    path = folder / file.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(_hidden(path, "lock"), f"{path} is being downloaded by another process. Wait for it or end it."):
            partial = _Transfer(file, path).run()
            _check_md5(file, partial)
            with partial.open("rb+") as written:
                os.fsync(written.fileno())
            partial.replace(path)
    except requests.RequestException as error:  # an OSError, too
        raise RectalError(_failure(file, path, error)) from error
    except OSError as error:
        _remove_partials(path)
        raise RectalError(
            f"{path} cannot be written ({error.strerror}), and nothing of it was left. Check the folder that "
            f"{WEIGHTS_VARIABLE} names, its rights and its disk."
        ) from error
    return path


@dataclass(frozen=True)
class _Version:
    """A file as a server offers it: its size in bytes, and what no other version has; None where that is not said."""

    size: int | None
    validator: str | None

    @classmethod
    def of(cls, response: requests.Response) -> "_Version":
        """Return the version of which a response holds the whole."""
        tag = response.headers.get("ETag", "")
        # Only a strong tag says that two files are equal in every byte.
        validator = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")
        length = response.headers.get("Content-Length", "")
        return cls(int(length) if length.isdecimal() else None, validator)

    @property
    def digest(self) -> str:
        """A short name of it."""
        return hashlib.sha256(f"{self.size} {self.validator}".encode()).hexdigest()[:12]


class _Transfer:
    """One file on its way from its address to a partial file beside `path`."""

    def __init__(self, file: PretrainedFile, path: Path) -> None:
        assert file.address is not None
        self._file, self._path, self._address = file, path, file.address
        self._version = _Version(None, None)
        self._partial = _hidden(path, "partial")

    def run(self) -> Path:
        """Return the partial file once it is whole."""
        with requests.Session() as session:
            while True:
                before = self._present()
                try:
                    if self._receive(session):
                        return self._partial
                except _CUT:
                    if self._present() <= before:  # nothing came, so the next try would be as vain
                        _remove_partials(self._path, but=self._partial if self._present() else None)
                        raise
                    print(f"The connection was lost after {file_size(self._present())}; going on from there.")
                    time.sleep(SECONDS_BEFORE_RESUMING)

    def _present(self) -> int:
        """Return how many bytes there are of the version on the server, as far as they can be added to."""
        # Where the server does not name the version, the published MD5 will tell whether the pieces belong together.
        can_be_added_to = self._version.size is not None and (self._version.validator or self._file.md5)
        return self._partial.stat().st_size if can_be_added_to and self._partial.is_file() else 0

    def _receive(self, session: requests.Session) -> bool:
        """Ask once and write what comes; return whether the file is whole, and not only known what is missing of it."""
        present = self._present()
        headers = {"Accept-Encoding": "identity"}
        if present:
            headers["Range"] = f"bytes={present}-"
            if self._version.validator:
                headers["If-Range"] = self._version.validator
        with session.get(self._address, headers=headers, stream=True, timeout=TIMEOUT) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                self._partial.unlink(missing_ok=True)  # so that the next call begins anew
            response.raise_for_status()
            if present and response.status_code == requests.codes.partial_content:
                self._check_range(response, present)
            else:
                self._begin(response)
                if not present and self._present():  # from an earlier call
                    return self._present() == self._version.size
                present = 0
            self._write(response, present)
        return True

    def _begin(self, response: requests.Response) -> None:
        """Note which version a response holds the whole of; refuse what is not the file, and forget other versions."""
        if response.headers.get("Content-Type", "").startswith("text/"):
            raise RectalError(f"{self._address} gives a web page and not {self._file.name}. {_by_hand(self._file)}")
        self._version = _Version.of(response)
        size, published = self._version.size, self._file.megabytes
        if size is None and self._file.md5 is None:
            raise RectalError(
                f"{self._address} does not say how large {self._file.name} is, and no MD5 is published, so that it "
                f"could not be checked. {_by_hand(self._file)}"
            )
        if size is not None and published and abs(size / (published * 1e6) - 1) > SIZE_TOLERANCE:
            raise RectalError(
                f"{self._address} offers {file_size(size)}, but {self._file.name} has {published} MB: it is another "
                f"file. {_by_hand(self._file)}"
            )
        self._partial = _hidden(self._path, f"{self._version.digest}.partial")
        _remove_partials(self._path, but=self._partial)
        if not self._present() or self._present() > (size or 0):
            self._partial.unlink(missing_ok=True)
        check_space(self._path.parent, (size or 0) - self._present(), f"The missing bytes of {self._file.name}")

    def _check_range(self, response: requests.Response, present: int) -> None:
        """Refuse a piece that does not continue what is there."""
        sent = response.headers.get("Content-Range", "nothing")
        if not sent.startswith(f"bytes {present}-"):
            self._partial.unlink()
            raise RectalError(
                f"{self._address} sent the piece '{sent}' where that from {present} on was asked for. What had come "
                "was removed; try again."
            )

    def _write(self, response: requests.Response, present: int) -> None:
        """Add what comes to the first `present` bytes, or begin anew."""
        progress = tqdm(
            desc=self._file.name, total=self._version.size, initial=present, unit="B", unit_scale=True, disable=None
        )
        with self._partial.open("ab" if present else "wb") as written, progress:
            for chunk in response.iter_content(CHUNK_BYTES):
                written.write(chunk)
                progress.update(len(chunk))
        if self._version.size is not None and self._partial.stat().st_size < self._version.size:
            raise requests.ConnectionError("the connection ended early")  # as older versions of urllib3 do not tell


def _check_md5(file: PretrainedFile, partial: Path) -> None:
    """Refuse and remove a download that is not the published file."""
    if file.md5 is not None and (md5 := md5_of(partial)) != file.md5:
        partial.unlink()
        raise RectalError(
            f"{file.address} gave a file with the MD5 {md5}, but that of {file.name} is {file.md5}. It was removed. "
            f"Try again. {_by_hand(file)}"
        )


def _failure(file: PretrainedFile, path: Path, error: requests.RequestException) -> str:
    """Return what to say where a server could not be reached, or refused."""
    if error.response is not None:
        problem = f"answers {error.response.status_code} {error.response.reason}."
    else:
        cause = getattr(error.args[0], "reason", error) if error.args else error
        problem = (
            f"cannot be reached ({cause}). Check the network; behind a proxy set HTTPS_PROXY, and REQUESTS_CA_BUNDLE "
            "to its certificate where it signs by one of its own."
        )
    kept = " What has come is kept, and the same command goes on from there." if _partials(path) else ""
    return f"{file.address} {problem}{kept} {_by_hand(file)}"


def _by_hand(file: PretrainedFile) -> str:
    return f"Or get it by hand, and put it into the folder that {WEIGHTS_VARIABLE} names (see {DOCUMENTATION})."


def _hidden(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}.{ending}")


def _partials(path: Path) -> list[Path]:
    return list(path.parent.glob(_hidden(path, "*partial").name))


def _remove_partials(path: Path, but: Path | None = None) -> None:
    for partial in _partials(path):
        if partial != but:
            partial.unlink()
