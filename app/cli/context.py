"""What a command works with: the settings, the accounts, and the stores for those that need them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Final

import click

from app.auth.aws.users import ListingRefused, UserList
from app.auth.hostkeys import HostKeys
from app.auth.local.users import ListedUser
from app.cli.audit import trail_of
from app.config import Settings
from app.main import Accounts, Stores, build_accounts, build_cloud, build_stores, now_ms
from storage.types import UserId, run_inline

if TYPE_CHECKING:
    from app.cloud import Cloud

_AT_ONCE: Final = 16
"""Databases that maintenance does side by side: it waits for the network for most of the time."""


class Admin:
    """One run of `ankisyncctl`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        _refuse_root_in_others_folder(settings)
        self.audit = trail_of(settings)

    @cached_property
    def cloud(self) -> Cloud | None:
        """The clients of AWS; None where everything is on this machine."""
        return build_cloud(self.settings)

    @cached_property
    def accounts(self) -> Accounts:
        """Users, host keys, and the check of passwords."""
        return build_accounts(self.settings, self.cloud, offload=run_inline, clock_ms=now_ms)

    @property
    def users(self) -> UserList:
        """Who may log in."""
        return self.accounts.users

    @property
    def keys(self) -> HostKeys:
        """One for each device that has logged in."""
        return self.accounts.keys

    @contextmanager
    def stores(self) -> Iterator[Stores]:
        """The stores, beside those of running workers; closed at the end."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            stores = build_stores(
                self.settings,
                self.cloud,
                offload=run_inline,
                clock_ms=now_ms,
                in_parallel=map if self.cloud is None else pool.map,
            )
            try:
                yield stores
            finally:
                stores.close()

    def find_user(self, name: str) -> ListedUser:
        """The user called `name`, or an end with a clear line."""
        found = self.users.find(name)
        if found is None:
            raise click.ClickException(f"there is no user {name!r}")
        return found

    def names(self) -> dict[UserId, str]:
        """The name of each user; without those of a pool that may not be listed, which a line says."""
        try:
            return {listed.id: listed.name for listed in self.users.list()}
        except ListingRefused as exc:
            click.echo(f"{exc}; users are shown by their ids", err=True)
            return {}


def _refuse_root_in_others_folder(settings: Settings) -> None:
    """Files that root makes in the folder of the server's user could not be opened by the server."""
    folder = settings.cache_dir if settings.cloud is not None else settings.data_root
    with contextlib.suppress(OSError):
        owner = folder.stat().st_uid
        if os.geteuid() == 0 and owner != 0:
            raise click.ClickException(
                f"{folder} belongs to uid {owner}: run this as that user (sudo -u '#{owner}' ...)"
            )
