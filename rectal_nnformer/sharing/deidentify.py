"""Names that must not travel: pseudonyms for cases, and traces of the person, the machine and the folders."""

import getpass
import os
import re
import secrets
import socket
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.layout import folder_variables
from rectal_nnformer.utils.files import csv_text, is_there, locked, read_table, staged_file

KEY_FILE = "pseudonyms.csv"
LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
NUM_LETTERS = 8
PRIVATE_KEYS = {
    *("raw_signature", "mask_digest", "patient", "patients", "patient_id"),
    *("date", "path", "folder", "host", "user"),
}
"""Keys of JSON files that do not travel, wherever they are. A digest of a mask tells whose it is to all who have it."""
PLAN_WORDS = ("smit", "swin", "unetr", "swin_unetr", "nnunet", "rectal", "tumor", "planned", "published")
"""Words that plans need; an account of such a name does not tell whose it is."""

_PATH = re.compile(r"""(?:^|[\s"'=(,;:\[])(?:/[^\s/]+/\S|~[\w.-]*/|[A-Za-z]:[\\/]|\\\\\w|file:/)|^/[^\s/]+$""")


class Traces:
    """Finds in texts the names of this computer's user, host and folders, and anything that looks like a path."""

    def __init__(self) -> None:
        host = socket.gethostname()
        folders = [str(Path.home()), *folder_variables().values()]
        names = {os.environ.get(name, "") for name in ("LOGNAME", "USER", "USERNAME", "SUDO_USER")}
        with suppress(OSError, KeyError, ImportError):
            names.add(getpass.getuser())
        names = (names | {host, host.partition(".")[0]}) - {"localhost", *PLAN_WORDS}
        self._folders = [folder for folder in folders if len(folder) > 2]
        self._names = whole_names(name for name in names if len(name) > 1)

    def in_text(self, text: str) -> bool:
        """Whether a text holds a path, or the name of user or host."""
        named = self._names is not None and self._names.search(text)
        return bool(named or _PATH.search(text)) or any(folder in text for folder in self._folders)


def whole_names(names: Iterable[str]) -> re.Pattern[str] | None:
    """Return a pattern that finds any of some names where no letter or digit touches it; None for no names."""
    ordered = sorted(set(names), key=lambda name: (-len(name), name))
    if not ordered:
        return None
    return re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(map(re.escape, ordered))})(?![A-Za-z0-9])")


class Renamer:
    """Puts the new name of each case in place of the old one; texts that name absent cases do not travel."""

    def __init__(self, names: Mapping[str, str], absent: Collection[str] = ()) -> None:
        self.names, self.absent = dict(names), frozenset(absent)
        self._absent = whole_names(absent)
        # These do not occur by chance, and must not remain within longer words either.
        self._distinctive = [n for n, new in names.items() if n != new and len(n) > 4 and re.search(r"\D\d", n)]
        self._pattern = whole_names([old for old, new in names.items() if old != new])

    def __getitem__(self, case: str) -> str:
        return self.names[case]

    def text(self, text: str) -> str:
        """Return a text with every case name in it replaced."""
        return self._pattern.sub(lambda match: self.names[match.group()], text) if self._pattern else text

    def names_absent(self, text: str) -> bool:
        """Whether a text names a case that does not travel."""
        return bool(self._absent and self._absent.search(text))

    def found_in(self, content: Any) -> str | None:
        """Return the first original name in a JSON content's texts and keys; None if there is none."""
        if self._pattern is None:
            return None
        if isinstance(content, str):
            found = self._pattern.search(content)
            return found.group() if found else next((name for name in self._distinctive if name in content), None)
        if isinstance(content, Mapping):
            content = [*(key for key in content if not key.isdecimal()), *content.values()]
        if isinstance(content, list):
            return next((name for name in map(self.found_in, content) if name), None)
        return None


def scrubbed(content: Any, renamer: Renamer, traces: Traces, removed: set[str]) -> Any:
    """Return a JSON content under new case names, without texts and keys that tell of this computer or of patients.

    `removed` gets what was left out, in words that tell nothing of it. Where a record of a case tells the patient, the
    case becomes a patient of its own, as where a dataset does not tell patients.
    """
    if isinstance(content, dict):
        kept = {}
        cases = renamer.names.keys() | renamer.absent
        about_cases = content.keys() <= cases
        for key, value in content.items():
            if key.isdecimal() and not about_cases:
                # A percentile or a channel, though a case may have the same number for a name.
                kept[key] = scrubbed(value, renamer, traces, removed)
            elif key == "patient" and isinstance(content.get("case"), str):
                kept[key] = scrubbed(content["case"], renamer, traces, removed)
            elif key.lower() in PRIVATE_KEYS:
                removed.add(f"key '{key.lower()}'")
            elif traces.in_text(key):
                removed.add("keys with a path, user or host name")
            elif not renamer.names_absent(key):
                kept[renamer.text(key)] = scrubbed(value, renamer, traces, removed)
        # The old order would tell how the old names were ordered.
        return dict(sorted(kept.items())) if kept.keys() - content.keys() else kept
    if isinstance(content, list):
        # Entries that are cases, and records of cases.
        named = [(value, value.get("case") if isinstance(value, Mapping) else value) for value in content]
        kept_values = [value for value, name in named if not (isinstance(name, str) and name in renamer.absent)]
        return [scrubbed(value, renamer, traces, removed) for value in kept_values]
    if isinstance(content, str):
        if not (absent := renamer.names_absent(content)) and not traces.in_text(content):
            return renamer.text(content)
        removed.add(f"texts {'about cases that do not travel' if absent else 'with a path, user or host name'}")
        return ""
    return content


def locked_key(folder: Path) -> AbstractContextManager[None]:
    """Hold the key file of a dataset, from the choice of names until they are written; waits for others that do."""
    message = f"Another export gives names to the cases of {folder.name}; waiting for its key."
    return locked(folder / f".{KEY_FILE}.lock", message, wait=True)


def pseudonyms(folder: Path, cases: Collection[str]) -> dict[str, str]:
    """Return a random name for each case: those of the key file in a dataset's folder, and new ones for other cases."""
    known = _read_key(folder / KEY_FILE)
    names = {case: known[case] for case in cases if case in known}
    taken = {name.casefold() for name in (*known.values(), *cases)}
    for case in cases:
        if case not in names:
            names[case] = _new_name(cases, taken)
            taken.add(names[case].casefold())
    return names


def write_key(folder: Path, names: Mapping[str, str]) -> Path:
    """Add pseudonyms to the key file of a dataset, readable by its owner alone; return its path."""
    path = folder / KEY_FILE
    rows = [{"case": case, "pseudonym": name} for case, name in sorted((_read_key(path) | dict(names)).items())]
    with staged_file(path) as staged:
        staged.touch(mode=0o600)
        staged.write_text(csv_text(("case", "pseudonym"), rows), encoding="utf-8")
    return path


def _new_name(cases: Collection[str], taken: Collection[str]) -> str:
    for _ in range(100):
        name = "P" + "".join(secrets.choice(LETTERS) for _ in range(NUM_LETTERS))
        folded = name.casefold()
        if folded not in taken and not any(case.casefold() in folded for case in cases):
            return name
    raise RectalError("Some cases have names of one or two letters, which any other name contains. Rename those cases.")


def _read_key(path: Path) -> dict[str, str]:
    if not is_there(path):
        return {}
    remedy = "Restore it, or move it away for new names."
    rows = [row for _, row in read_table(path, ("case", "pseudonym"), "The key of pseudonyms", remedy)]
    names = {row["case"]: row["pseudonym"] for row in rows}
    if not all(map(all, names.items())) or len(names) < len(rows) or len(set(names.values())) < len(rows):
        raise RectalError(f"{path} is not the key file that this program wrote. Fix it, or move it away for new names.")
    return names
