"""SPDX licence expressions made from Debian's copyright files. Pure: text in, text out.

A machine-readable file (its first field is `Format:`, DEP-5) names a licence for each group of files: the expression
joins all of them by AND. A name for which SPDX has no identifier becomes `LicenseRef-Debian-<package>-<name>`, whose
text is in that package's copyright file. From any other file only the grants of GNU licences are taken that it has word
for word; `LicenseRef-Debian-<package>-copyright` stands for the rest. Nothing is guessed: "GPL" without a version,
"and/or", and an exception of which SPDX has several become a LicenseRef.

A copyright file describes the source package: its expression may name licences that no file of this package has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

# Names as `_plain` leaves them: lower case, without `.0` at the end of a version.
_NAMES = {
    "expat": "MIT",
    "artistic": "Artistic-1.0-Perl",  # The text in /usr/share/common-licenses is that of Perl.
    "openssl+ssleay": "OpenSSL",
    "cc0": "CC0-1.0",
    # Names that SPDX has too, with other capitals or with `.0`.
    **{
        re.sub(r"\.0$", "", identifier.lower()): identifier
        for identifier in (
            *("AFL-2.0", "AFL-2.1", "Apache-2.0", "Artistic-2.0", "Beerware", "BSD-1-Clause", "BSD-2-Clause"),
            *("BSD-3-Clause", "BSD-4-Clause", "BSD-4-Clause-UC", "BSL-1.0", "bzip2-1.0.6", "CC-BY-3.0"),
            *("CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC0-1.0", "curl", "FSFAP", "FSFULLR", "ISC", "Latex2e"),
            *("MIT-CMU", "MPL-1.1", "MPL-2.0", "MS-PL", "NCSA", "OLDAP-2.8", "OpenSSL", "RSA-MD", "Sleepycat"),
            *("SMAIL-GPL", "TCP-wrappers", "Unicode-DFS-2016", "Zlib"),
        )
    },
    "openldap-2.8": "OLDAP-2.8",
    "mpl-2": "MPL-2.0",
}
_EXCEPTIONS = {
    "bison-2.2": "Bison-exception-2.2",
    "libtool": "Libtool-exception",
    "linux-syscall-note": "Linux-syscall-note",
    "llvm": "LLVM-exception",
    "texinfo": "Texinfo-exception",
}
_GNU = re.compile(
    r"(?P<name>a?gpl|lgpl|gfdl)(?P<niv>-niv)?-(?P<version>[123](\.[0-9])?)(?P<later>\+)?(?P<no>-no-invariant)?"
)
# The versions that exist. Any other version in a copyright file is a mistake, and its licence is not known.
_VERSIONS = {
    "gpl": ("1.0", "2.0", "3.0"),
    "lgpl": ("2.0", "2.1", "3.0"),
    "agpl": ("3.0",),
    "gfdl": ("1.1", "1.2", "1.3"),
}
# A licence and an exception in one word: `GPL-2+-libtool-exception`.
_ONE_WORD = re.compile(r"(\S+?\+?)-(?:with-)?([a-z0-9.]+)-exception", re.IGNORECASE)
# A grant in prose, in which each run of blanks and line breaks has become one blank.
_GRANT = re.compile(
    r"GNU (?P<kind>Library |Lesser )?General Public License,? (?:as published by the Free Software Foundation[;,] )?"
    r"(?P<either>either )?version (?P<version>[123](?:\.[01])?)(?: of the License)?"
)
# What follows a grant that covers later versions; and what follows one of this version alone, which ends there.
_LATER = re.compile(r"\+|,? \(?or,? (\(?at your option\)?,? )?(any )?later")
_ENDS = re.compile(r"( as published by the Free Software Foundation)?([.;]|$)")
# What precedes a grant, and not a sentence that only says where the text is.
_UNDER = re.compile(r"(under|by) the (terms|conditions) of (the )?$|overall licen[cs]e for \S+ is the $", re.IGNORECASE)
_MIT = (
    "permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated "
    'documentation files (the "software"), to deal in the software without restriction',
    "the above copyright notice and this permission notice shall be included in all copies or substantial portions",
    'the software is provided "as is", without warranty of any kind, express or implied',
)


def expression(text: str, package: str) -> str:
    """The SPDX expression of a copyright file. The name of the package `package` is part of its LicenseRefs."""
    return joined(clauses(text, package))


def clauses(text: str, package: str) -> list[str]:
    """What `expression` joins: licences and choices between licences, each of which is that of some files."""
    stanzas = list(_stanzas(text))
    if not stanzas or not {"format", "format-specification"} & stanzas[0].keys():
        return [*_granted(text), _reference(package, "copyright")]
    fields = [(stanza, *_split(stanza["license"])) for stanza in stanzas if "license" in stanza]
    texts = {name.lower(): body for _, name, body in fields if body}
    of_files = [name for stanza, name, _ in fields if "files" in stanza] or [name for _, name, _ in fields]
    found = [clause for synopsis in of_files for clause in _of_synopsis(synopsis, package, texts)]
    return found or [_reference(package, "copyright")]


def joined(clauses: Iterable[str]) -> str:
    """One expression that joins all of these by AND; identifiers of SPDX come first."""
    found = sorted(set(clauses), key=lambda clause: (_is_own(clause), clause.lower()))
    return " AND ".join(f"({clause})" if " OR " in clause and len(found) > 1 else clause for clause in found)


def identifiers(text: str) -> set[str]:
    """The identifiers of SPDX's own list in an expression: no LicenseRef, no exception."""
    words = re.findall(r"(WITH )?([^\s()]+)", text)
    return {word for with_, word in words if not with_ and word not in {"AND", "OR", "WITH"} and not _is_own(word)}


def _is_own(word: str) -> bool:
    return word.startswith("LicenseRef-")


def _of_synopsis(synopsis: str, package: str, texts: dict[str, str]) -> Iterator[str]:
    """The clauses of the licence of one group of files: `GPL-1+ or Artistic, and Expat` has two."""
    synopsis = " ".join(synopsis.split())
    if not synopsis:
        return
    # With a comma before `and`, `or` binds closer than `and`. Any other comma may mean either.
    parts = re.split(r", and ", synopsis, flags=re.IGNORECASE)
    if "," in "".join(parts) or re.search(r"and/or|\bor/and\b", synopsis, re.IGNORECASE):
        yield _reference(package, synopsis)
        return
    for part in parts:
        choices = [
            [_name(name, package, texts) for name in re.split(r" and ", choice, flags=re.IGNORECASE)]
            for choice in re.split(r" or ", part, flags=re.IGNORECASE)
        ]
        if len(choices) == 1:
            yield from choices[0]
            continue
        terms = sorted({" AND ".join(sorted(set(choice))) for choice in choices})
        yield " OR ".join(f"({term})" if " AND " in term else term for term in terms)


def _name(name: str, package: str, texts: dict[str, str]) -> str:
    """One licence, with its exception if it has one."""
    licence, with_, exception = re.sub(r"\s+", " ", name).strip().partition(" with ")
    if not with_ and (found := _ONE_WORD.fullmatch(licence)):
        licence, exception = found[1], found[2]
    spdx = _identifier(licence) or _by_text(texts.get(name.lower(), ""))
    if not exception:
        return spdx or _reference(package, name)
    known = _EXCEPTIONS.get(re.sub(r"[ -]?exception$", "", exception.strip().lower()))
    return f"{spdx} WITH {known}" if spdx and known else _reference(package, name)


def _identifier(name: str) -> str | None:
    plain = re.sub(r"\.0(?=\+?$)", "", name.lower())
    found = _GNU.fullmatch(plain)
    if found is None:
        return _NAMES.get(plain)
    version = found["version"] if "." in found["version"] else f"{found['version']}.0"
    if version not in _VERSIONS[found["name"]]:
        return None
    # Debian calls the GFDL without invariant sections GFDL-NIV.
    without = "-no-invariants" if found["niv"] or found["no"] else ""
    return f"{found['name'].upper()}-{version}{without}-{'or-later' if found['later'] else 'only'}"


def _by_text(text: str) -> str | None:
    """MIT, as which many licences are known: only where the text is that of SPDX's MIT, and nothing follows it."""
    plain = " ".join(re.sub(r"^\s*\.\s*$", " ", text, flags=re.MULTILINE).split()).lower()
    plain = re.sub(r"[“”]|``|''", '"', plain)
    whole = all(part in plain for part in _MIT) and plain.startswith(("permission is", "copyright", "the mit", "mit"))
    return "MIT" if whole and "except as contained" not in plain and "advertising" not in plain else None


def _granted(text: str) -> Iterator[str]:
    """The licences of the grants of a GNU licence that a text has in the FSF's own words."""
    plain = " ".join(text.split())
    for found in _GRANT.finditer(plain):
        if not _UNDER.search(plain[: found.start()]):
            continue
        name = "LGPL" if found["kind"] else "GPL"
        version = found["version"] if "." in found["version"] else f"{found['version']}.0"
        if version not in _VERSIONS[name.lower()]:
            continue
        if _LATER.match(plain, found.end()):
            yield f"{name}-{version}-or-later"
        elif _ENDS.match(plain, found.end()) and not found["either"]:
            yield f"{name}-{version}-only"


def _reference(package: str, name: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", name.replace("+", "-or-later ")).strip("-")
    return f"LicenseRef-Debian-{re.sub(r'[^A-Za-z0-9.]', '-', package)}-{plain}"


def _split(field: str) -> tuple[str, str]:
    """A License field: its first line, which names the licence, and the text below it."""
    first, _, rest = field.partition("\n")
    return first.strip(), rest


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    for block in re.split(r"\n[ \t]*\n", text.replace("\r", "")):
        stanza: dict[str, str] = {}
        field = ""
        for line in block.splitlines():
            if line.startswith("#"):
                continue
            if line[:1].isspace() and field:
                stanza[field] += f"\n{line.strip()}"
            elif found := re.match(r"([A-Za-z-]+)[ \t]*:(.*)", line):
                field = found[1].lower()
                stanza[field] = found[2].strip()
        if stanza:
            yield stanza
