"""The licence of a file is what its author states, in SPDX's words, or unknown; never a guess."""

from pathlib import Path

import pytest

from magicoder.seeds.licenses import License, Licenses, is_allowed, normalize_expression, recognize_text

MIT = (Path(__file__).parents[2] / "LICENSE").read_text()
BSD = """Redistribution and use in source and binary forms, with or without
modification, are permitted provided that the following conditions are met: ..."""


@pytest.mark.parametrize(
    ("text", "identifier"),
    [
        (MIT, "MIT"),
        (MIT + '"Commons Clause" License Condition', None),
        (MIT + "The Software shall be used for Good, not Evil.", None),
        ("Apache License\n   Version 2.0, January 2004\n", "Apache-2.0"),
        (BSD, "BSD-2-Clause"),
        (BSD + "Neither the name of the\n copyright holder nor", "BSD-3-Clause"),
        (BSD + "Neither the name Somebody Inc. nor the names of its contributors may", "BSD-3-Clause"),
        ("Mozilla Public License Version 2.0\n=====\n\n1. Definitions\n-----\n", "MPL-2.0"),
        (BSD + "All advertising materials mentioning", None),
        ("GNU GENERAL PUBLIC LICENSE\n  Version 2, June 1991", "GPL-2.0"),
        ("GNU GENERAL PUBLIC LICENSE\n  Version 3, 29 June 2007 ... GNU Affero General Public License", "GPL-3.0"),
        ("GNU LESSER GENERAL PUBLIC LICENSE\n  Version 3, 29 June 2007", "LGPL-3.0"),
        ("Mozilla Public License Version 2.0\n\n1. Definitions", "MPL-2.0"),
        ("This is free and unencumbered software released into the public domain.", "Unlicense"),
        (MIT + BSD, None),
        ("MIT", None),
        ("", None),
    ],
)
def test_text_is_recognised_only_beyond_doubt(text: str, identifier: str | None) -> None:
    assert recognize_text(text) == identifier


def test_license_of_file_precedes_folder_and_folder_its_parent(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text(MIT)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "Cargo.toml").write_text('[package]\nlicense = "MIT/Apache-2.0"\n')
    licences = Licenses(tmp_path)
    assert licences.find(tmp_path / "x.py", "") == License("MIT", "LICENSE")
    assert licences.find(tmp_path / "a" / "b" / "x.rs", "") == License("MIT OR Apache-2.0", "a/Cargo.toml")
    stated = "/* SPDX-License-Identifier: GPL-2.0-only WITH Classpath-exception-2.0 */\n"
    expected = License("GPL-2.0-only WITH Classpath-exception-2.0", "a/x.c")
    assert licences.find(tmp_path / "a" / "x.c", "#!x\n" + stated) == expected
    assert licences.find(tmp_path / "x.py", "\n" * 30 + stated) == License("MIT", "LICENSE")


@pytest.mark.parametrize(
    ("name", "content", "expression"),
    [
        ("pyproject.toml", '[project]\nlicense = "mit"', "MIT"),
        ("pyproject.toml", '[project]\nlicense = {text = "BSD-3-Clause"}', "BSD-3-Clause"),
        ("pyproject.toml", '[project]\nlicense = {file = "LICENSE"}', None),
        ("pyproject.toml", "[project", None),
        ("package.json", '{"license": "(MIT OR ISC)"}', "(MIT OR ISC)"),
        ("package.json", '{"license": "UNLICENSED"}', None),
        ("package.json", '{"license": ["MIT"]}', None),
        ("package.json", "[" * 100_000, None),
        ("LICENSE-MIT.txt", MIT, "MIT"),
        ("licence.md", MIT, "MIT"),
    ],
)
def test_package_states_its_licence(tmp_path: Path, name: str, content: str, expression: str | None) -> None:
    (tmp_path / name).write_text(content)
    assert Licenses(tmp_path).find(tmp_path / "x.py", "").expression == expression


def test_all_of_several_licence_files_hold(tmp_path: Path) -> None:
    """Which of them may be chosen alone is for a package's description to say."""
    (tmp_path / "LICENSE-MIT").write_text(MIT)
    (tmp_path / "LICENSE-APACHE").write_text("Apache License Version 2.0, January 2004")
    (tmp_path / "LICENSE-3RD").mkdir()
    found = Licenses(tmp_path).find(tmp_path / "x.rs", "")
    assert found == License("Apache-2.0 AND MIT", "LICENSE-APACHE, LICENSE-MIT")


@pytest.mark.parametrize(
    ("expression", "allowed", "verdict"),
    [
        ("MIT", ["MIT"], True),
        ("MIT OR GPL-3.0", ["MIT"], True),
        ("MIT AND GPL-3.0", ["MIT"], False),
        ("(MIT OR GPL-3.0) AND ISC", ["MIT", "ISC"], True),
        ("(MIT OR GPL-3.0) AND ISC", ["ISC"], False),
        ("GPL-2.0-only WITH Classpath-exception-2.0", ["GPL-2.0-only"], False),
        ("MIT", [], False),
    ],
)
def test_expression_is_allowed_if_one_of_its_choices_is(expression: str, allowed: list[str], verdict: bool) -> None:
    assert is_allowed(expression, allowed) is verdict


def test_what_spdx_does_not_know_is_no_licence() -> None:
    assert [
        normalize_expression("apache-2.0"),
        normalize_expression("Apache 2"),
        normalize_expression(None),
        normalize_expression(""),
    ] == ["Apache-2.0", None, None, None]
