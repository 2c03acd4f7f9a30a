"""Topic administration: makes a cluster's topics what the catalogue says. Nothing else creates or changes topics.

What has to change is decided in :mod:`apexstream.contracts.plan`; here the cluster is asked and told. Nothing is ever
deleted.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka import errors as kafka
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.admin import (
    CreateAclsRequest,
    CreatePartitionsRequest,
    CreateTopicsRequest,
    DescribeConfigsRequest,
)
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.types import Array, Boolean, Int8, Int16, Int32, Schema, String

from apexstream.contracts.catalogue import Topic
from apexstream.contracts.grants import Grant, Resource
from apexstream.contracts.plan import CLUSTER_DEFAULT, Action, TopicChange, TopicState, plan
from apexstream.core.errors import ApexError, InvalidConfiguration, Unavailable
from apexstream.log.connection import Cluster, Connection

_POLL_S = 0.05
_CONTROLLER_ATTEMPTS = 20
_TOPIC_RESOURCE = 2
_FROM_TOPIC = 1  # where a setting's value comes from: set on the topic itself
_SET = 0
# Numbers of Kafka's protocol for access rules.
_ACL_RESOURCES = {Resource.TOPIC: 2, Resource.GROUP: 3}
_ACL_OPERATIONS = {"READ": 3, "WRITE": 4, "DELETE": 6, "DESCRIBE": 8}
_ACL_LITERAL, _ACL_PREFIXED, _ACL_ALLOW = 3, 4, 3


async def diff(
    topics: Sequence[Topic],
    to: Cluster,
    replication: int = CLUSTER_DEFAULT,
    *,
    force: bool = False,
    timeout_s: float = 30.0,
) -> tuple[TopicChange, ...]:
    """What :func:`apply` would do to the cluster; empty: nothing.

    ``replication`` is for topics that are created. Raise :class:`Unavailable` if the cluster does not answer within
    ``timeout_s`` seconds, :class:`InvalidConfiguration` if it cannot do what is asked.
    """
    async with _cluster(to, timeout_s) as cluster:
        return plan(topics, await cluster.state(topics), replication, force=force)


async def apply(
    topics: Sequence[Topic],
    to: Cluster,
    replication: int = CLUSTER_DEFAULT,
    *,
    force: bool = False,
    timeout_s: float = 30.0,
) -> tuple[TopicChange, ...]:
    """Make the cluster what ``topics`` say; return what was done, and what needs a human.

    Returns once every broker knows the changes and a leader for every partition. Doing it again changes nothing.
    Arguments and errors are those of :func:`diff`; ``force`` also allows a single copy on a cluster that could keep three.
    """
    async with _cluster(to, timeout_s) as cluster:
        changes = plan(topics, await cluster.state(topics), replication, force=force)
        created = _only(Action.CREATE, changes)
        _check_replication(created, replication, cluster.brokers, force=force)
        await cluster.create(created)
        await cluster.add_partitions(_only(Action.ADD_PARTITIONS, changes))
        await cluster.wait_for_leaders({change.topic: change.partitions for change in changes if change.partitions})
        # How many copies the cluster's default gave to a new topic, and so what follows from it, is known only now.
        altered = _only(Action.ALTER, plan(topics, await cluster.state(topics), replication, force=force))
        await cluster.alter(altered)
        await cluster.wait_for_settings({change.topic: change.settings for change in altered})
        return changes


async def allow(grants: Sequence[Grant], to: Cluster, *, timeout_s: float = 30.0) -> None:
    """Add ``grants`` to the cluster's access rules, from any host. Rules that exist are left alone; nothing is taken away."""
    async with _cluster(to, timeout_s) as cluster:
        await cluster.allow(grants)


def _only(action: Action, changes: Iterable[TopicChange]) -> list[TopicChange]:
    return [change for change in changes if change.action is action]


def _check_replication(created: Sequence[TopicChange], replication: int, brokers: int, *, force: bool) -> None:
    if not created:
        return
    if replication > brokers:
        raise InvalidConfiguration(
            f"replication {replication}, but only {brokers} brokers are up",
            where="APEX_REPLICATION",
            hint="Start the others, or use -1 or fewer",
        )
    if replication == 1 and brokers >= 3 and not force:
        raise InvalidConfiguration(
            f"one copy on a cluster of {brokers}: losing a broker would lose streams",
            where="APEX_REPLICATION",
            hint="Use 3, or force it",
        )


@asynccontextmanager
async def _cluster(to: Cluster, timeout_s: float) -> AsyncIterator["_Cluster"]:
    """A connection for one piece of work, which must be done after ``timeout_s`` seconds."""
    # Shorter than the whole, so that the client reports an address that does not answer before we give up on it.
    client = AIOKafkaClient(
        **Connection.to(to).options, client_id="apexstream-admin", request_timeout_ms=int(timeout_s * 400)
    )
    try:
        async with asyncio.timeout(timeout_s):
            await client.bootstrap()
            yield _Cluster(client, timeout_s)
    except (kafka.KafkaError, OSError, TimeoutError) as problem:
        raise _unavailable(to, timeout_s, problem) from None
    finally:
        await client.close()


def _unavailable(to: Cluster, timeout_s: float, problem: Exception) -> ApexError:
    if isinstance(problem, kafka.KafkaConnectionError | OSError) and not isinstance(problem, TimeoutError):
        what = f"Kafka cannot be reached: {problem}"
    else:
        what = f"Kafka did not finish within {timeout_s:g} s ({problem or type(problem).__name__})"
    hint = "Check that it runs and that KAFKA_BOOTSTRAP_SERVERS names it"
    return Unavailable(what, where=str(to), hint=hint)


class _Cluster:
    """What is asked of a connected cluster, in the words of its protocol."""

    def __init__(self, client: AIOKafkaClient, timeout_s: float) -> None:
        self._client = client
        self._timeout_ms = int(timeout_s * 1000)

    @property
    def brokers(self) -> int:
        return len(self._client.cluster.brokers())

    async def state(self, topics: Iterable[Topic]) -> dict[str, TopicState]:
        """The topics among ``topics`` that exist."""
        node = await self._reachable_node()
        found = await self._replicas([topic.name for topic in topics], node)
        settings = await self._settings(list(found), node)
        return {
            name: TopicState(
                partitions=len(partitions),
                replication=max(len(replicas) for _, replicas in partitions),
                settings={setting: value for setting, value, _ in settings[name]},
                own=frozenset(setting for setting, _, own in settings[name] if own),
            )
            for name, partitions in found.items()
        }

    async def create(self, changes: Sequence[TopicChange]) -> None:
        """Create topics, all in one request. One that someone else has created meanwhile is none of our business."""
        requests: list[Any] = [(c.topic, c.partitions, c.replication, [], list(c.settings.items())) for c in changes]
        if requests:
            answer = await self._tell_controller(
                CreateTopicsRequest(requests, self._timeout_ms, validate_only=False), _topic_codes
            )
            for name, code, message in answer.topic_errors:
                # One that takes longer than the request may be waited for is waited for with the others.
                if code not in {kafka.TopicAlreadyExistsError.errno, kafka.RequestTimedOutError.errno}:
                    _check(name, code, message)

    async def add_partitions(self, changes: Sequence[TopicChange]) -> None:
        requests: list[Any] = [(change.topic, (change.partitions, None)) for change in changes]
        if requests:
            answer = await self._tell_controller(
                CreatePartitionsRequest(requests, self._timeout_ms, validate_only=False),
                _topic_codes,
            )
            for name, code, message in answer.topic_errors:
                _check(name, code, message)

    async def alter(self, changes: Sequence[TopicChange]) -> None:
        """Set settings, leaving those that are not named alone."""
        resources = [
            (_TOPIC_RESOURCE, change.topic, [(name, _SET, value) for name, value in change.settings.items()])
            for change in changes
        ]
        if resources:
            answer = await self._tell_controller(
                IncrementalAlterConfigsRequest(resources),
                _resource_codes,
            )
            for code, message, _, name in answer.resources:
                _check(name, code, message)

    async def allow(self, grants: Iterable[Grant]) -> None:
        """Create access rules."""
        for grant in grants:
            for operation in grant.operations:
                rule = (
                    _ACL_RESOURCES[grant.resource],
                    grant.name,
                    _ACL_PREFIXED if grant.prefix else _ACL_LITERAL,
                    f"User:{grant.service}",
                    "*",
                    _ACL_OPERATIONS[operation],
                    _ACL_ALLOW,
                )
                answer = await self._tell_controller(CreateAclsRequest(*rule), _acl_codes)
                for code, message in answer.creation_responses:
                    _check(f"{grant.service}: {grant.name}", code, message)

    async def wait_for_leaders(self, partitions: Mapping[str, int]) -> None:
        """Return when every broker knows leaders for that many ``partitions`` of each topic."""

        async def done(node: int) -> bool:
            found = await self._replicas(list(partitions), node)
            led = {name: sum(leader >= 0 for leader, _ in replicas) for name, replicas in found.items()}
            return all(led.get(name, 0) >= count for name, count in partitions.items())

        if partitions:
            await self._wait_on_every_broker(done)

    async def wait_for_settings(self, settings: Mapping[str, Mapping[str, str]]) -> None:
        """Return when every broker knows these ``settings`` of each topic; they learn them one after the other."""

        async def done(node: int) -> bool:
            found = await self._settings(list(settings), node)
            known = {(topic, name, value) for topic, entries in found.items() for name, value, _ in entries}
            return known >= {(topic, *setting) for topic, wanted in settings.items() for setting in wanted.items()}

        if settings:
            await self._wait_on_every_broker(done)

    async def _wait_on_every_broker(self, done: Callable[[int], Awaitable[bool]]) -> None:
        """Return when all brokers that can be reached, and at least one, are ``done``."""

        async def ask(node: int) -> bool | None:
            try:
                return await done(node)
            except (kafka.NodeNotReadyError, kafka.KafkaConnectionError):
                return None

        while True:
            answers = await asyncio.gather(*(ask(broker.nodeId) for broker in self._client.cluster.brokers()))
            if True in answers and False not in answers:
                return
            await asyncio.sleep(_POLL_S)

    async def _replicas(self, names: list[str], node: int) -> dict[str, list[tuple[int, list[int]]]]:
        """Leader (-1: none) and replicas of every partition of those topics that broker ``node`` knows."""
        answer: Any = await self._client.send(node, MetadataRequest(names, allow_auto_topic_creation=False))
        found = {}
        for code, name, _, partitions in answer.topics:
            if code != kafka.UnknownTopicOrPartitionError.errno:
                if code != kafka.LeaderNotAvailableError.errno:
                    _check(name, code, "")
                found[name] = [(leader, replicas) for _, _, leader, replicas, *_ in partitions]
        return {name: partitions for name, partitions in found.items() if partitions}

    async def _settings(self, names: list[str], node: int) -> dict[str, list[tuple[str, str, bool]]]:
        """Name, value in force, and whether it is set on the topic itself, of every setting of the topics."""
        if not names:
            return {}
        request = DescribeConfigsRequest([(_TOPIC_RESOURCE, name, None) for name in names])
        answer: Any = await self._client.send(node, request)
        settings = {}
        for code, message, _, topic, entries in answer.resources:
            _check(topic, code, message)
            settings[topic] = [(name, value, source == _FROM_TOPIC) for name, value, _, source, *_ in entries]
        return settings

    async def _reachable_node(self) -> int:
        for broker in self._client.cluster.brokers():
            if await self._client.ready(broker.nodeId):
                return int(broker.nodeId)
        raise kafka.KafkaConnectionError("none of its brokers accepts connections")

    async def _tell_controller(self, request: Request[Any], codes: Callable[[Any], Iterable[int]]) -> Any:
        """Send to the controller, following it when it moves; ``codes`` finds the error codes in the answer."""
        for _ in range(_CONTROLLER_ATTEMPTS):
            controller = self._client.cluster.controller
            if controller is not None and await self._client.ready(controller.nodeId):
                answer: Any = await self._client.send(controller.nodeId, request)
                if kafka.NotControllerError.errno not in codes(answer):
                    return answer
            await self._client.force_metadata_update()
            await asyncio.sleep(_POLL_S)
        raise kafka.NotControllerError(f"no controller after {_CONTROLLER_ATTEMPTS} attempts")


def _topic_codes(answer: Any) -> list[int]:
    return [code for _, code, _ in answer.topic_errors]


def _acl_codes(answer: Any) -> list[int]:
    return [code for code, _ in answer.creation_responses]


def _resource_codes(answer: Any) -> list[int]:
    return [code for code, *_ in answer.resources]


def _check(topic: str, code: int, message: str | None) -> None:
    """Raise what an error code about a topic means: :class:`InvalidConfiguration` if only a human can help."""
    error = kafka.for_code(code)
    if error is kafka.NoError:
        return
    what = message or error.description or error.__name__
    if error.retriable:
        raise Unavailable(f"{error.__name__}: {what}", where=topic)
    raise InvalidConfiguration(
        f"the cluster refuses: {what} ({error.__name__})", where=topic, hint=_REMEDY.get(error, "")
    )


_REMEDY: Final[Mapping[type[kafka.BrokerResponseError], str]] = {
    kafka.TopicAuthorizationFailedError: "Give this client CREATE, DESCRIBE_CONFIGS and ALTER_CONFIGS on its topics",
    kafka.ClusterAuthorizationFailedError: "Give this client CREATE on the cluster, or create the topics for it",
    kafka.SecurityDisabled: "Give the brokers an authorizer (authorizer.class.name) first",
    kafka.InvalidReplicationFactorError: "Set APEX_REPLICATION to no more than the cluster has brokers",
    kafka.InvalidConfigurationError: "The cluster is too old for a setting in schemas/topics, or it is misspelt there",
}


class IncrementalAlterConfigsResponse_v0(Response):  # type: ignore[misc]  # noqa: N801, named as its siblings in aiokafka
    """Answer to :class:`IncrementalAlterConfigsRequest_v0`."""

    API_KEY = 44
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "resources",
            Array(
                ("error_code", Int16),
                ("error_message", String("utf-8")),
                ("resource_type", Int8),
                ("resource_name", String("utf-8")),
            ),
        ),
    )


class IncrementalAlterConfigsRequest_v0(RequestStruct):  # type: ignore[misc]  # noqa: N801, named as its siblings in aiokafka
    """Kafka's request of that name as it goes over the wire."""

    API_KEY = 44
    API_VERSION = 0
    RESPONSE_TYPE = IncrementalAlterConfigsResponse_v0
    SCHEMA = Schema(
        (
            "resources",
            Array(
                ("resource_type", Int8),
                ("resource_name", String("utf-8")),
                (
                    "configs",
                    Array(("name", String("utf-8")), ("operation", Int8), ("value", String("utf-8"))),
                ),
            ),
        ),
        ("validate_only", Boolean),
    )


class IncrementalAlterConfigsRequest(Request[IncrementalAlterConfigsRequest_v0]):  # type: ignore[misc]
    """Changes the settings that it names. aiokafka only has AlterConfigs, which resets all that it does not name."""

    API_KEY = 44

    def __init__(self, resources: Sequence[tuple[int, str, Sequence[tuple[str, int, str]]]]) -> None:
        self._resources = resources

    def build(self, request_struct_class: type[IncrementalAlterConfigsRequest_v0]) -> IncrementalAlterConfigsRequest_v0:
        return request_struct_class(self._resources, False)
