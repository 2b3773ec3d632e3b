"""Everything of DBOS that we rely on and that it does not promise: private names, and the tables of its
system database that `storage.job_queue` reads and changes. A failure after an upgrade of DBOS names the code
to look at.
"""

import inspect
from collections.abc import Iterator

import dbos._core
import dbos._error
import dbos._serialization
import dbos._sys_db
import dbos._utils
import pytest
from dbos import DBOS, DBOSClient, DBOSPortableJSONSerializer
from sqlalchemy import MetaData, Table, create_engine, select, update

from pipelines.worker import workflows
from storage import job_queue
from tests.services import database_url, postgres, postgres_url

__all__ = ["database_url", "postgres", "postgres_url"]

QUEUES = ("tasks", "jobs")


def test_the_private_names_exist() -> None:
    assert issubclass(dbos._error.DBOSAwaitedWorkflowCancelledError, Exception)
    recover = inspect.signature(DBOS._recover_pending_workflows)
    assert list(recover.parameters) == ["executor_ids"], "`Engine._adopt` passes the ids of dead workers"
    recover_one = inspect.signature(dbos._sys_db.SystemDatabase.reenqueue_for_recovery)
    assert list(recover_one.parameters)[1:] == ["workflow_id", "executor_ids", "recovery_queue_name"]
    assert "_active_workflows_set" in inspect.getsource(DBOS.__init__), "`Engine._recover_lost` reads it"
    assert dbos._core.ActiveWorkflowById().activeList() == [] and dbos._utils.INTERNAL_QUEUE_NAME
    deserialize = inspect.signature(dbos._serialization.DefaultSerializer.deserialize)
    assert list(deserialize.parameters)[1:] == ["serialized_data"], "`forbid_pickle` replaces it"


def test_rows_tagged_as_pickled_are_read_by_the_method_that_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    default, portable = dbos._serialization.DefaultSerializer, DBOSPortableJSONSerializer()
    monkeypatch.setattr(default, "deserialize", default.deserialize)  # put back at the end of the test
    pickled = default().serialize([1])
    assert dbos._serialization.deserialize_value(pickled, default().name(), portable) == [1]
    workflows.forbid_pickle()
    with pytest.raises(TypeError, match="a pickled row was refused"):
        dbos._serialization.deserialize_value(pickled, default().name(), portable)
    assert portable.name() == job_queue.PORTABLE


@pytest.fixture
def system_database(database_url: str) -> str:
    """A system database as this version of DBOS makes it."""
    assert not job_queue.exists(database_url)
    DBOS.migrate(database_url)
    return database_url


@pytest.fixture
def client(system_database: str) -> Iterator[DBOSClient]:
    client = DBOSClient(system_database_url=system_database, serializer=DBOSPortableJSONSerializer())
    yield client
    client.destroy()


def reflect(url: str) -> dict[str, Table]:
    """The tables of the system database by name, as they are."""
    engine = create_engine(url)
    metadata = MetaData(schema=job_queue.SCHEMA if engine.dialect.name == "postgresql" else None)
    metadata.reflect(engine, resolve_fks=False)
    engine.dispose()
    return {table.name: table for table in metadata.tables.values()}


def test_every_table_with_a_serialization_names_its_workflow(system_database: str) -> None:
    assert job_queue.exists(system_database)
    tables = reflect(system_database)
    tagged = {name for name, table in tables.items() if "serialization" in table.c}
    assert {"workflow_status", "operation_outputs", "notifications"} <= tagged
    assert all({"workflow_uuid", "destination_uuid"} & set(tables[name].c.keys()) for name in tagged)


def test_the_line_of_waiting_workflows_is_that_of_the_database(
    system_database: str, client: DBOSClient
) -> None:
    for id in ("a", "b", "c"):
        client.enqueue({"workflow_name": "task", "queue_name": "tasks", "workflow_id": id}, {"id": id})
    for place, id in enumerate(("b", "a", "c")):
        job_queue.move_to_time(system_database, id, 100.0 + place)
    assert job_queue.waiting_workflows(system_database, *QUEUES) == ["b", "a", "c"]
    assert job_queue.move_first(system_database, QUEUES, "c")
    assert job_queue.waiting_workflows(system_database, *QUEUES) == ["c", "b", "a"]
    client.enqueue({"workflow_name": "task", "queue_name": "tasks", "workflow_id": "c:run"}, {})
    job_queue.inherit_position(system_database, "c:run", "c", 50.0)
    assert job_queue.waiting_workflows(system_database, *QUEUES) == ["c:run", "c", "b", "a"]
    assert job_queue.remove_waiting(system_database, "b")
    states = {flow.workflow_id: flow.status for flow in client.list_workflows()}
    assert states == {"a": "ENQUEUED", "b": "CANCELLED", "c": "ENQUEUED", "c:run": "ENQUEUED"}


def test_a_pickled_row_is_found_and_deleted(system_database: str, client: DBOSClient) -> None:
    for id in ("honest", "planted"):
        client.enqueue({"workflow_name": "task", "queue_name": "tasks", "workflow_id": id}, {})
    table = reflect(system_database)["workflow_status"]
    engine = create_engine(system_database)
    with engine.begin() as connection:
        assert set(connection.scalars(select(table.c.serialization))) == {job_queue.PORTABLE}
        connection.execute(
            update(table).where(table.c.workflow_uuid == "planted").values(serialization="py_pickle")
        )
    engine.dispose()
    assert job_queue.refuse_pickled(system_database) == ["planted"]
    assert job_queue.waiting_workflows(system_database, *QUEUES) == ["honest"]
