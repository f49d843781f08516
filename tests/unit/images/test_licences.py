"""Licences as Debian's copyright files tell them: SPDX where the file says so, and never a guess."""

from __future__ import annotations

import pytest
from cyclonedx import spdx

from images.bases.debian import licences

FORMAT = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n"


def of(*synopses: str, text: str = "") -> str:
    stanzas = [f"Files: {number}\nCopyright: x\nLicense: {name}\n{text}" for number, name in enumerate(synopses)]
    return licences.expression("\n".join([FORMAT, *stanzas]), "tool")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("GPL-2+", "GPL-2.0-or-later"),
        ("GPL-2", "GPL-2.0-only"),
        ("GPL-3.0+", "GPL-3.0-or-later"),
        ("LGPL-2+", "LGPL-2.0-or-later"),
        ("LGPL-2.1", "LGPL-2.1-only"),
        ("GFDL-NIV-1.3+", "GFDL-1.3-no-invariants-or-later"),
        ("GFDL-1.2+", "GFDL-1.2-or-later"),
        ("Expat", "MIT"),
        ("BSD-3-clause", "BSD-3-Clause"),
        ("Apache-2", "Apache-2.0"),
        ("Artistic", "Artistic-1.0-Perl"),
        ("GPL-2+ with Libtool exception", "GPL-2.0-or-later WITH Libtool-exception"),
        ("GPL-2 with  Linux-syscall-note exception", "GPL-2.0-only WITH Linux-syscall-note"),
        ("GPL-2+-libtool-exception", "GPL-2.0-or-later WITH Libtool-exception"),
        ("GPL-1+ or Artistic", "Artistic-1.0-Perl OR GPL-1.0-or-later"),
        ("GPL-1+ or Artistic, and Expat", "(Artistic-1.0-Perl OR GPL-1.0-or-later) AND MIT"),
        ("GPL-2+ and ISC or Expat", "(GPL-2.0-or-later AND ISC) OR MIT"),
    ],
)
def test_a_name_of_debian_is_the_identifier_of_spdx(said: str, told: str) -> None:
    assert of(said) == told


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("GPL", "LicenseRef-Debian-tool-GPL"),
        ("GPL-7", "LicenseRef-Debian-tool-GPL-7"),
        ("BSD", "LicenseRef-Debian-tool-BSD"),
        ("ISC and/or LGPL-2.1+", "LicenseRef-Debian-tool-ISC-and-or-LGPL-2.1-or-later"),
        ("ISC, Expat", "LicenseRef-Debian-tool-ISC-Expat"),
        # SPDX has five exceptions of this name.
        ("GPL-2+ with Autoconf exception", "LicenseRef-Debian-tool-GPL-2-or-later-with-Autoconf-exception"),
        ("own with LLVM exception", "LicenseRef-Debian-tool-own-with-LLVM-exception"),
        ("GPL-2+ or own~one", "GPL-2.0-or-later OR LicenseRef-Debian-tool-own-one"),
        # Many licences are called so.
        ("MIT", "LicenseRef-Debian-tool-MIT"),
        ("", "LicenseRef-Debian-tool-copyright"),
    ],
)
def test_what_spdx_has_no_one_identifier_for_names_the_package_whose_file_has_the_text(said: str, told: str) -> None:
    assert of(said) == told


MIT = """\
 Permission is hereby granted, free of charge, to any person obtaining a
 copy of this software and associated documentation files (the "Software"),
 to deal in the Software without restriction, including without limitation
 the rights to use, copy, modify, merge, publish, distribute, sublicense,
 and/or sell copies of the Software.
 .
 The above copyright notice and this permission notice shall be included in
 all copies or substantial portions of the Software.
 .
 THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
 IMPLIED.
"""


def test_mit_is_known_by_its_text_and_not_by_its_name() -> None:
    assert of("MIT", text=MIT) == "MIT"
    x11 = MIT + " .\n Except as contained in this notice, the name of X shall not be used in advertising.\n"
    assert of("MIT", text=x11) == "LicenseRef-Debian-tool-MIT"


def test_all_licences_of_all_files_are_told_once_and_in_order() -> None:
    assert of("own", "GPL-2+", "Expat or own", "GPL-2+") == (
        "GPL-2.0-or-later AND LicenseRef-Debian-tool-own AND (LicenseRef-Debian-tool-own OR MIT)"
    )


def test_texts_that_no_file_is_under_are_not_told() -> None:
    assert licences.expression(f"{FORMAT}\nFiles: *\nLicense: ISC\n\nLicense: GPL-2\n Text.\n", "tool") == "ISC"


PROSE = """\
This is the Debian package of tool. Upstream's authors are many.

    The library is free software; you can redistribute it and/or modify it
    under the terms of the GNU Lesser General Public License as published by the
    Free Software Foundation; either version 2.1 of the License, or (at your
    option) any later version.

The full text of the GNU General Public License version 2 can be found in
`/usr/share/common-licenses/GPL-2'. Some files are under a licence of BSD's.
"""


def test_of_prose_only_the_grants_that_stand_in_it_are_told_and_the_rest_is_named() -> None:
    assert licences.expression(PROSE, "libtool6") == "LGPL-2.1-or-later AND LicenseRef-Debian-libtool6-copyright"
    without = PROSE.replace("under the terms of", "as in")
    assert licences.expression(without, "libtool6") == "LicenseRef-Debian-libtool6-copyright"
    assert licences.expression("", "g++") == "LicenseRef-Debian-g---copyright"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("version 2.1 or later - see COPYING.LIB", "LGPL-2.1-or-later AND "),
        ("version 3+.", "LGPL-3.0-or-later AND "),
        ("version 2 (or, at your option, any later version)", "LGPL-2.0-or-later AND "),
        ("version 2.1.", "LGPL-2.1-only AND "),
        ("version 2.1 with some additions.", ""),
        ("version 7.", ""),
    ],
)
def test_a_grant_in_prose_is_told_with_the_versions_that_it_is_of(words: str, told: str) -> None:
    text = f"under the terms of the\n   GNU Lesser General Public License, {words}"
    assert licences.expression(text, "x") == f"{told}LicenseRef-Debian-x-copyright"


def test_a_grant_of_one_version_is_not_made_one_of_later_ones() -> None:
    text = (
        "you may redistribute it under the terms of the GNU General Public License as published by the Free Software "
    )
    assert licences.expression(f"{text} Foundation; version 2 of the License.", "x").startswith("GPL-2.0-only AND")
    assert licences.expression(f"{text} Foundation; either version 2 or 3.", "x") == "LicenseRef-Debian-x-copyright"


def test_every_identifier_that_can_be_told_is_one_of_spdx() -> None:
    names = {*licences._NAMES.values()}
    for kind, versions in licences._VERSIONS.items():
        for version in versions:
            names |= {licences._identifier(f"{kind}-{version}{later}") or "" for later in ("", "+")}
    assert {name for name in names if not spdx.is_supported_id(name)} == set()
    assert all(spdx.is_expression(f"GPL-2.0-only WITH {name}") for name in licences._EXCEPTIONS.values())


def test_identifiers_are_those_of_spdx_alone() -> None:
    text = "(MIT OR GPL-2.0-only WITH Libtool-exception) AND LicenseRef-Debian-x-copyright"
    assert licences.identifiers(text) == {"MIT", "GPL-2.0-only"}
