"""What connections go without because the broker refuses it: retained messages, and the last will.

MQTT has a word for it, 0x9A (Retain not supported), in CONNACK or DISCONNECT, and RetainAvailable in an accepted
CONNACK. Others close the connection at the first retained message, or before CONNACK, or answer with a code that may
mean anything. So after CONCESSION_ENDS ends of that kind in a row the next connection goes without. Where the broker
accepted none, it goes without retaining, then without a last will, then with both again; and before one that goes
without is kept, one with all is tried once more: what was refused may have been a password or an access list, and be
granted by now.

Each connection after an accepted one begins by asking for all.
"""

from __future__ import annotations

from edge.mqtt.connection import RETAIN_NOT_SUPPORTED, SERVER_SHUTTING_DOWN, SESSION_TAKEN_OVER, Ended

CONCESSION_ENDS = 3
MAY_REFUSE_A_WILL = frozenset({None, 0x80, 0x83, 0x87, 0x90, 0x99, RETAIN_NOT_SUPPORTED, 0x9B})
"""Codes of a CONNACK, None where there is none, that may be about what the connection was to leave behind."""
_RETAINING, _WILL = 1, 2


class Concessions:
    """Decides what the next connection asks for, from how those before it ended. It knows no broker."""

    def __init__(self) -> None:
        self.may_retain = True
        """Whether will and messages of this connection keep their retain flag."""
        self.has_will = True
        self.is_retaining = False
        """Whether messages go out retained: not before the connection is accepted."""
        self._lacks = 0  # what this connection goes without for CONCESSION_ENDS: nothing, _RETAINING, _WILL too
        self._is_granted = True  # retaining, to the next connection
        self._retained_ends = 0  # accepted connections in a row that ended at their first retained message
        self._unaccepted = 0  # connections in a row that were not accepted, perhaps for their will
        self._lacking_accepted = 0  # since one with all was accepted

    def begin(self) -> None:
        """A connection is about to be dialled."""
        self._lacks = max(0, self._unaccepted - CONCESSION_ENDS + 1) % 3
        self.may_retain = self._is_granted and self._lacks < _RETAINING
        self.has_will = self._lacks < _WILL

    def accepted(self, *, can_retain: bool) -> bool:
        """The broker accepted the connection; whether it is to be kept, or given up for one that asks for all."""
        self.is_retaining = self.may_retain and can_retain
        self._is_granted = can_retain
        if not self._lacks:
            self._unaccepted = self._lacking_accepted = 0
            return True
        self._unaccepted = CONCESSION_ENDS - 1
        self._lacking_accepted += 1
        return self._lacking_accepted > 1

    def retained(self) -> None:
        """The broker took a retained message."""
        self._retained_ends = 0

    def ended(self, ended: Ended, *, is_at_retained: bool) -> bool:
        """How the connection ended, with a retained message unanswered or not; whether the broker said 0x9A to it."""
        is_said = ended.code == RETAIN_NOT_SUPPORTED and self.may_retain
        if is_said:
            self._is_granted = False
        elif ended.is_at_connect and ended.code in MAY_REFUSE_A_WILL:
            self._unaccepted += 1
        elif self.is_retaining and is_at_retained and ended.code not in (SESSION_TAKEN_OVER, SERVER_SHUTTING_DOWN):
            self._retained_ends += 1
            self._is_granted = self._retained_ends < CONCESSION_ENDS
        self.is_retaining = False
        return is_said

    def missing(self) -> str | None:
        """What the MES cannot have on this connection, for an alarm; None if nothing is missing."""
        if self.is_retaining:
            return None
        late = "status, model and health reach those alone who are connected when they are said"
        if self.has_will:
            return f"keeps no retained messages: {late}"
        return (
            f"keeps no retained messages and takes no last will: {late}, and no `offline` is said when the worker dies"
        )
