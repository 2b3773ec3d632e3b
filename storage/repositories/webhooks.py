"""Repositories of webhooks and of the messages that are sent to them."""

from collections.abc import Iterable

from sqlalchemy import case, delete, func, select, update

from dataengine.records import Delivery, DeliveryState, Webhook
from storage import tables
from storage.repositories.rows import Named, Rows, chunks, replace


class Webhooks(Rows[Webhook]):
    """Events and secrets of the registered webhooks."""

    table = tables.webhooks
    makes = Webhook
    what = "webhook"

    def find(self, endpoint_id: str) -> Webhook | None:
        """That of a registered endpoint; None for one that is no webhook."""
        return self._one(endpoint_id=endpoint_id)

    def list(self) -> list[Webhook]:
        """All of them, in the order of their registration."""
        ordered = self._select().join(tables.endpoints, tables.endpoints.c.id == self.table.c.endpoint_id)
        return self._records(ordered.order_by(tables.endpoints.c.created, self.table.c.endpoint_id))

    def set(self, webhook: Webhook) -> None:
        """Store it, in place of the one before."""
        replace(self._connection, self.table, self._row(webhook))


class Deliveries(Named[Delivery]):
    """Messages to webhooks: those that are to be sent, and a log of those that were."""

    table = tables.webhook_deliveries
    makes = Delivery
    what = "delivery"

    def add_many(self, deliveries: Iterable[Delivery]) -> int:
        """Store those that have a new id; returns their number."""
        return self._insert(deliveries)

    def known(self, ids: Iterable[str]) -> set[str]:
        """Those of the ids that there are."""
        column = self.table.c.id
        found = (self._connection.scalars(select(column).where(column.in_(chunk))) for chunk in chunks(ids))
        return {id for page in found for id in page}

    def due(self, at: float, limit: int) -> list[Delivery]:
        """Pending messages whose next attempt is due, the longest overdue first."""
        table = self.table.c
        waiting = self._select().where(table.state == "pending", table.next_at <= at)
        return self._records(waiting.order_by(table.next_at, table.id).limit(limit))

    def claim(self, delivery: Delivery, until: float) -> bool:
        """Count an attempt, and keep other workers from making one before `until`; False if one of them was
        faster."""
        table = self.table.c
        taken = self._connection.execute(
            update(self.table)
            .where(table.id == delivery.id, table.state == "pending", table.attempts == delivery.attempts)
            .values(attempts=delivery.attempts + 1, next_at=until)
        )
        return bool(taken.rowcount)

    def settle(
        self, id: str, state: DeliveryState, status: int | None, error: str, next_at: float, at: float
    ) -> None:
        """Store how an attempt went. One that is not repeated is finished at `at`."""
        finished = None if state == "pending" else at
        values = {"state": state, "status": status, "error": error, "next_at": next_at, "finished": finished}
        self._update(id, **values)

    def repeat(self, id: str, at: float) -> None:
        """Send a message once more from `at` on, whatever became of it. Raises `NotFound`."""
        self._update(id, state="pending", attempts=0, next_at=at, finished=None)

    def of_endpoint(self, endpoint_id: str, limit: int) -> list[Delivery]:
        """The newest messages to an address first."""
        table = self.table.c
        newest = self._select().where(table.endpoint_id == endpoint_id)
        return self._records(newest.order_by(table.created.desc(), table.id).limit(limit))

    def summaries(self) -> dict[str, tuple[int, int]]:
        """By endpoint how many messages are pending and how many have failed."""
        table = self.table.c
        pending = func.sum(case((table.state == "pending", 1), else_=0))
        failed = func.sum(case((table.state == "failed", 1), else_=0))
        found = select(table.endpoint_id, pending, failed).where(table.state.in_(("pending", "failed")))
        rows = self._connection.execute(found.group_by(table.endpoint_id))
        return {id: (int(waiting), int(lost)) for id, waiting, lost in rows}

    def forget(self, before: float) -> int:
        """Delete the log of messages that were made before that time and are not pending; returns their
        number. Messages of states that last, such as a study that is open, are made again otherwise, so those
        of `LASTING` events are kept."""
        table = self.table.c
        old = table.created < before, table.state != "pending", table.event.not_in(LASTING)
        return self._connection.execute(delete(self.table).where(*old)).rowcount


LASTING = ("people needed", "engineers needed", "raters needed", "")
