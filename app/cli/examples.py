"""Examples that `--help` shows below the options, and the command that makes shells complete words."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

import click
from click.shell_completion import get_completion_class

PROGRAM: Final = "ankisyncctl"

EXAMPLES: Final = MappingProxyType(
    {
        "backup create": ("backup create /mnt/backup --keep 14", "backup create s3://backups/anki"),
        "backup list": ("backup list /mnt/backup",),
        "backup restore": ("backup restore /mnt/backup", "backup restore /mnt/backup --user joe --overwrite"),
        "check": ("check", "check --json"),
        "completion": (
            "completion bash > /etc/bash_completion.d/ankisyncctl",
            'completion zsh > "${fpath[1]}/_ankisyncctl"',
        ),
        "config check": ("config check",),
        "doctor": ("doctor", "doctor joe --read-media"),
        "history export": ("history export joe 41 old.colpkg", "history export joe 41 - > old.anki2"),
        "history list": ("history list joe", "history list joe media"),
        "history restore": ("history restore joe 41", "history restore joe 7 media --yes"),
        "import": (
            "import /path/to/SYNC_BASE",
            "import /path/to/collections --user joe",
            "import joe.colpkg --user joe",
        ),
        "init": ("init",),
        "key list": ("key list", "key list joe --json"),
        "key revoke": ("key revoke 0123456789ab", "key revoke --user joe"),
        "maintain": ("maintain", "maintain --full", "maintain --shard 2/8"),
        "maintenance off": ("maintenance off",),
        "maintenance on": ('maintenance on "Back at 15:00"',),
        "maintenance status": ("maintenance status",),
        "media rebuild": ("media rebuild joe --dry-run", "media rebuild joe"),
        "quota clear": ("quota clear joe",),
        "quota set": ("quota set joe --collection 500M --media 5G --media-files 20000",),
        "quota show": ("quota show", "quota show joe"),
        "rebuild-heads": ("rebuild-heads --dry-run", "rebuild-heads", "rebuild-heads joe"),
        "session end": ("session end joe",),
        "session list": ("session list",),
        "status": ("status", "status joe", "status --json"),
        "syncs": ("syncs joe", "syncs joe --failed --json"),
        "user add": ("user add joe", "user add joe --password-stdin < password.txt"),
        "user check": ("user check joe", "user check joe --address 192.0.2.7"),
        "user erase": ("user erase u0123456789abcdef01234567",),
        "user export": ("user export joe /tmp/joe", "user export joe /tmp/joe --versions"),
        "user hash": ("user hash",),
        "user list": ("user list", "user list --json"),
        "user passwd": ("user passwd joe",),
        "user purge": ("user purge joe --dry-run", "user purge joe"),
        "user remove": ("user remove joe", "user remove joe --delete-data"),
        "user reset": ("user reset joe --media --dry-run", "user reset joe --collection"),
    }
)
"""Command -> what may stand after `ankisyncctl`."""


def add_examples(group: click.Group, path: str = "") -> None:
    """Give all commands of a group their examples."""
    for name, command in group.commands.items():
        words = f"{path} {name}".strip()
        if isinstance(command, click.Group):
            add_examples(command, words)
        elif words in EXAMPLES:
            lines = "\n".join(f"  {PROGRAM} {example}" for example in EXAMPLES[words])
            command.epilog = f"\b\nExamples:\n{lines}"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes SHELL complete commands and options of ankisyncctl."""
    found = get_completion_class(shell)
    assert found is not None
    variable = f"_{PROGRAM.upper()}_COMPLETE"
    click.echo(found(ctx.find_root().command, {}, PROGRAM, variable).source())
