"""What active health checks say of one instance."""

from __future__ import annotations

from typing import final

__all__ = ["Health"]


@final
class Health:
    """Whether an instance is healthy, by the checks of the past.

    =========  =============================================  =========  =============================
    state      event                                          next       effect
    =========  =============================================  =========  =============================
    unknown    a check succeeded                              healthy    it has been healthy
    unknown    a check failed, others have yet to             unknown    it counts for the row
    unknown    enough in a row failed, or one for certain     unhealthy  the row begins anew
    healthy    a check succeeded                              healthy    the row begins anew
    healthy    a check failed, others have yet to             healthy    it counts for the row
    healthy    enough in a row failed, or one for certain     unhealthy  the row begins anew
    unhealthy  a check failed                                 unhealthy  the row begins anew
    unhealthy  a check succeeded, it was never healthy        healthy    it has been healthy
    unhealthy  a check succeeded, others have yet to          unhealthy  it counts for the row
    unhealthy  enough in a row succeeded                      healthy    the row begins anew
    =========  =============================================  =========  =============================

    `unknown` is used as healthy: nobody waits for the first check. One that has never been healthy is starting, so its
    first success is believed at once; one that was healthy before has to succeed `healthy_after` times, or an instance
    that comes and goes would come back each time.
    """

    __slots__ = ("_healthy_after", "_unhealthy_after", "row", "state", "was_healthy")

    def __init__(self, *, unhealthy_after: int, healthy_after: int) -> None:
        self._unhealthy_after = unhealthy_after
        self._healthy_after = healthy_after
        self.state = "unknown"
        self.row = 0
        """Checks in a row that spoke against the state."""
        self.was_healthy = False

    def succeed(self) -> None:
        """Count a check that succeeded."""
        if self.state == "unhealthy" and self.was_healthy and self.row + 1 < self._healthy_after:
            self.row += 1
        else:
            self._enter("healthy")
            self.was_healthy = True

    def fail(self, *, certain: bool) -> None:
        """Count a check that failed; one that is `certain` needs no others beside it."""
        if self.state != "unhealthy" and not certain and self.row + 1 < self._unhealthy_after:
            self.row += 1
        else:
            self._enter("unhealthy")

    def _enter(self, state: str) -> None:
        self.state = state
        self.row = 0
