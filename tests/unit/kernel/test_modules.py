"""What an error says about a module that is missing, where modules can be loaded and where they cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlayd.kernel import modules


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that kernel.modules_disabled is read from, which no test may set: it stays until the next boot."""
    file = tmp_path / "modules_disabled"
    monkeypatch.setattr(modules, "_DISABLED", file)
    return file


@pytest.mark.parametrize("text", ["0\n", None], ids=["on", "a kernel without modules"])
def test_a_module_that_is_missing_is_to_be_loaded(setting: Path, text: str | None) -> None:
    if text is not None:
        setting.write_text(text)
    error = modules.lacking("this kernel has no tea", "tea", instead="use coffee")
    assert (error.message, error.hint) == ("this kernel has no tea", "modprobe tea, or use coffee")
    assert modules.lacking("no tea, no milk", "tea", "milk").hint == "modprobe -a tea milk"


def test_where_no_module_can_be_loaded_the_message_says_so_and_the_hint_what_helps(setting: Path) -> None:
    setting.write_text("1\n")
    error = modules.lacking("this kernel has no tea", "tea", instead="use coffee")
    assert error.message == f"this kernel has no tea; {modules.OFF}"
    assert error.hint is not None
    assert "modprobe" not in error.hint
    assert "/etc/modules-load.d" in error.hint
    assert error.hint.endswith(", or use coffee")
