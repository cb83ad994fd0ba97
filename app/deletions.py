"""Accounts that their users want deleted: kept for seven days, in which they can be kept after all.

The wish is a record in the key store. Maintenance carries it out, once a day.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from app.auth.aws.users import UserList
from app.auth.hostkeys import HostKeys, KeyKind, KeyRecord, hash_of
from app.errors import AppError
from storage.database.store import DatabaseStore
from storage.errors import StorageError
from storage.types import DatabaseId, DatabaseKind, UserId

DAYS: Final = 7
_WAIT_MS: Final = DAYS * 24 * 3_600_000

log = logging.getLogger("ankisyncd.upkeep")


@dataclass(frozen=True, slots=True)
class Deletions:
    """Notes wishes, takes them back, and carries them out."""

    keys: HostKeys
    users: UserList
    databases: DatabaseStore
    clock_ms: Callable[[], int]

    def due_ms(self, user: UserId) -> int | None:
        """When an account is to be deleted; None if it is not."""
        # Listed, as `find` may remember for half a minute what another server has changed.
        wish = next((one for one in self.keys.list(user) if one.kind is KeyKind.DELETION), None)
        return None if wish is None else wish.created_ms + _WAIT_MS

    def ask(self, user: UserId) -> None:
        """Note that a user wants the account deleted; a wish that is there already stays as it is."""
        if self.due_ms(user) is None:
            now_ms = self.clock_ms()
            self.keys.add(KeyRecord(_key(user), user, "", now_ms, now_ms, now_ms, b"", KeyKind.DELETION))

    def take_back(self, user: UserId) -> None:
        """Keep the account after all."""
        self.keys.revoke(_key(user))

    def carry_out(self) -> None:
        """Delete the accounts whose time has come. What fails is logged, and tried again by the next run."""
        for record in list(self.keys.list()):
            if record.kind is KeyKind.DELETION and record.created_ms + _WAIT_MS <= self.clock_ms():
                try:
                    self._delete(record)
                except (AppError, StorageError):
                    log.exception("the account %s, whose user wants it deleted, is not", record.user)
                else:
                    log.warning("the account %s is deleted, as its user wanted it", record.user)

    def _delete(self, wish: KeyRecord) -> None:
        """The wish goes last, so that a deletion that was broken off goes on."""
        user = wish.user
        for record in list(self.keys.list(user)):
            if record.hash != wish.hash:
                self.keys.revoke(record.hash)
        for kind in DatabaseKind:
            self.databases.erase(DatabaseId(user, kind))
        listed = next((one for one in self.users.list() if one.id == user), None)
        if listed is not None and listed.source == "list":
            self.users.remove(listed.name)
        self.keys.revoke(wish.hash)


def _key(user: UserId) -> bytes:
    return hash_of(user, KeyKind.DELETION)
