"""Manual pages and completion cover all that the program accepts, and nothing else."""

from __future__ import annotations

import dataclasses
import gzip
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from images.engine.place import ROOT
from overlayd import cli
from overlayd.leases.network_config import parse_network_config
from overlayd.settings import Settings
from rpm import source
from rpm.docs import completion, make, network_config, overlayd_8, overlayd_conf_5, program, roff

EPOCH = 1_700_000_000
PLACES = tuple(make.PAGES)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The rendered pages by path; asserts that groff gives no warning."""
    assert shutil.which("man"), "the tests need man: run `make system`"
    folder = tmp_path_factory.mktemp("man")
    found = {}
    for place, text in make.pages(EPOCH).items():
        path = folder / Path(place).name
        path.write_text(text)
        done = subprocess.run(
            ["man", "--warnings", "-E", "UTF-8", "--local-file", path],
            env={**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "500", "MAN_KEEP_FORMATTING": "", "PAGER": "cat"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == "", place
        found[place] = re.sub(r".\x08|\x1b\[[0-9;]*m", "", done.stdout)
    return found


@pytest.fixture(scope="module")
def program_page(rendered: dict[str, str]) -> str:
    return rendered["man8/overlayd.8"]


@pytest.fixture(scope="module")
def settings_page(rendered: dict[str, str]) -> str:
    return rendered["man5/overlayd.conf.5"]


def below(page: str, title: str) -> str:
    """One section of a rendered page."""
    found = re.search(rf"^{title}\n(.*?)(?=^\S|\Z)", page, flags=re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def test_sections_are_the_usual_ones_in_their_order(program_page: str) -> None:
    assert re.findall(r"^[A-Z][A-Z ]+$", program_page, flags=re.MULTILINE) == [
        *("NAME", "SYNOPSIS", "DESCRIPTION", "COMMANDS", "OPTIONS", "EXIT STATUS", "FILES", "ENVIRONMENT", "SIGNALS"),
        *("EXAMPLES", "SEE ALSO"),
    ]


@pytest.mark.parametrize("place", PLACES)
def test_whatis_finds_out_what_a_page_is_about(tmp_path: Path, place: str) -> None:
    path = tmp_path / Path(place).name
    path.write_text(make.pages(EPOCH)[place])
    said = subprocess.run(["lexgrog", path], capture_output=True, text=True, check=True)
    assert f'"{path.stem} - ' in said.stdout


def test_every_command_is_documented_once_with_its_own_options(
    program_page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = below(program_page, "COMMANDS")
    commands = program.commands()
    with pytest.raises(SystemExit):
        cli.parser().parse_args(["bogus"])
    choices = re.findall(r"'([a-z-]+)'", capsys.readouterr().err.partition("choose from")[2])
    assert {command.name.split()[0] for command in commands} == set(choices)
    for command in commands:
        assert text.count(f"   overlayd {command.name}\n") == 1
        for action in command.options:
            assert program.term(action).replace("`", "") in text
    for setting in program.settings():
        assert f"       {setting.flags[0]}" not in text


def test_every_setting_is_documented_in_both_pages(program_page: str, settings_page: str) -> None:
    options, text = below(program_page, "OPTIONS"), below(settings_page, "SETTINGS")
    for field in dataclasses.fields(Settings):
        assert len(re.findall(rf"^ {{7}}--{field.name.replace('_', '-')}[ ,[]", options, flags=re.MULTILINE)) == 1
        assert text.count(f"       OVERLAYD_{field.name.upper()}\n") == 1
        assert f"FLANNELD_{field.name.upper()}" in text
    for name in ("--resync-s S, --iptables-resync S", "--ip-masq[=true|false]", "--docker-restart idle|never|always"):
        assert f"       {name}\n" in options
    assert "FLANNELD_IPTABLES_RESYNC" in text
    assert "Default: /coreos.com/network." in text
    assert "Allowed: a port from 1 to 65535, or 0 for none." in text


def test_every_exit_status_of_the_program_is_documented(program_page: str) -> None:
    told = {int(number) for number in re.findall(r"^ +(\d)  ", below(program_page, "EXIT STATUS"), flags=re.MULTILINE)}
    assert told == {0, *program.error_statuses()}


def test_files_are_those_that_the_package_has_and_the_settings_name() -> None:
    spec, settings = (ROOT / source.SPEC).read_text(), Settings()
    for path in overlayd_8.FILES:
        ours = Path(path).parent in (settings.run_dir, settings.state_dir)
        assert ours or re.search(rf"{re.escape(Path(path).name)}$", spec, flags=re.MULTILINE), path


def test_examples_are_command_lines_that_the_program_takes() -> None:
    lines = [line for _text, lines in overlayd_8.EXAMPLES for line in lines if line.startswith("overlayd ")]
    assert lines
    for line in lines:
        assert cli.parser().parse_args(shlex.split(line)[1:]).command


def test_keys_of_the_network_config_are_those_that_the_program_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, '{"Network": "10.42.0.0/16", "Bogus": 1}') == set(network_config.KEYS)


def test_backends_are_those_that_the_program_has_with_their_keys(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, '{"Network": "10.42.0.0/16", "Backend": {"Type": "bogus"}}')
    told = {kind: keys for kind, _text, keys in network_config.backend_pages()}
    assert said == set(told)
    for kind, keys in told.items():
        backend = f'{{"Type": "{kind}", "Bogus": 1}}'
        assert refused(capsys, f'{{"Network": "10.42.0.0/16", "Backend": {backend}}}') - {"no keys but Type"} == set(
            keys
        )


def test_examples_of_the_network_config_are_good_ones() -> None:
    for text in overlayd_conf_5.NETWORK_CONFIGS:
        assert parse_network_config(text).pools


def refused(capsys: pytest.CaptureFixture[str], config: str) -> set[str]:
    """What the program lists as valid in its error message, which it gives before it connects to etcd."""
    assert cli.main(["config", "set", config, "--config-file", os.devnull]) == 2
    found = re.search(r"known: (.*)", capsys.readouterr().err)
    assert found is not None
    return set(found[1].split(", "))


@pytest.mark.parametrize("shell", list(completion.PLACES))
def test_completion_knows_every_command_and_option(shell: str) -> None:
    text = completion.complete(shell)
    for command in program.commands():
        for word in command.name.split():
            assert re.search(rf"(?<![\w-]){word}(?![\w-])", text), word
        for action in command.options:
            assert action.option_strings[-1].lstrip("-") in text
    for setting in program.settings():
        assert setting.flags[0].removeprefix("--") in text


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("ch",), {"check"}),
        (("config", ""), {"get", "set"}),
        (("status", "--js"), {"--json"}),
        (("run", "--etcd-c"), {"--etcd-cafile", "--etcd-certfile"}),
        (("run", "--docker-restart", ""), {"idle", "never", "always"}),
        (("run", "--ip-masq", "t"), {"true"}),
        (("check", "--config-file", "/etc/os-rel"), {"/etc/os-release"}),
    ],
)
def test_bash_completes(tmp_path: Path, words: tuple[str, ...], found: set[str]) -> None:
    script = tmp_path / "overlayd"
    script.write_text(completion.complete("bash"))
    line = ("overlayd", *words)
    asked = f"""
source {script}
COMP_WORDS=({shlex.join(line)}) COMP_CWORD={len(line) - 1}
function=$(complete -p overlayd | sed 's/.*-F \\([^ ]*\\).*/\\1/')
$function {shlex.join(["overlayd", line[-1], line[-2]])}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    said = subprocess.run(["bash", "--norc", "-c", asked], capture_output=True, text=True, check=True)
    assert (set(said.stdout.split()), said.stderr) == (found, "")


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "SOURCE_DATE_EPOCH": str(EPOCH), "PYTHONPATH": "daemon"}
        argv = [sys.executable, "-m", "rpm.docs.make", str(tmp_path / seed)]
        subprocess.run(argv, cwd=ROOT, env=environment, check=True)
    made = [
        {
            path.relative_to(tmp_path / seed): path.read_bytes()
            for path in (tmp_path / seed).rglob("*")
            if path.is_file()
        }
        for seed in ("1", "2")
    ]
    assert made[0] == made[1]
    assert b'"2023-11-14"' in gzip.decompress(made[0][Path("usr/share/man/man8/overlayd.8.gz")])


def test_the_spec_has_every_file_that_is_made_and_no_other() -> None:
    spec = (ROOT / source.SPEC).read_text()
    listed = set(re.findall(r"^/(usr/share/(?:man|bash-completion|zsh|fish)/\S+)$", spec, flags=re.MULTILINE))
    assert listed == set(make.files(EPOCH))


def test_text_that_looks_like_a_roff_request_or_escape_is_printed_as_text() -> None:
    page = roff.Page("x", 1, date="2023-11-14", source="x")
    page.paragraph(".SH and 'so and a \\ and `--flag`, `~^'`")
    assert page.text().splitlines()[-1] == r"\&.SH and 'so and a \e and \fB\-\-flag\fR, \fB\(ti\(ha\(aq\fR"
    page.paragraph("caf\u00e9")
    with pytest.raises(ValueError, match="not ASCII"):
        page.text()
