"""Schemas at a schema registry that speaks Confluent's API: registered by an administrator, looked up by services.

With the ids that the registry gave them records carry Confluent's framing, and any consumer with an Avro deserializer reads
every topic. The registry is asked once, when a service starts: records are written and read without it.
"""

import json
from collections.abc import Mapping
from typing import Any

import httpx

from apexstream.contracts.codec import Codec
from apexstream.contracts.schemas import Schema, Schemas, load_schemas
from apexstream.core.errors import InvalidConfiguration, Unavailable
from apexstream.runtime.settings import Settings

COMPATIBILITY = "FULL_TRANSITIVE"  # what the tests hold every new version to: old and new read each other
_TIMEOUT_S = 15.0
_NO_SUBJECT, _NO_SCHEMA = 40401, 40403
_HEADERS = {"content-type": "application/vnd.schemaregistry.v1+json"}


async def codec_of(settings: Settings) -> Codec:
    """The codec of a service: framed for the registry of ``settings``, or with fingerprints where there is none.

    Raise :class:`Unavailable` if the registry does not answer, :class:`InvalidConfiguration` if it lacks a schema.
    """
    if not settings.schema_registry_url:
        return Codec()
    return Codec(await look_up(settings.schema_registry_url, load_schemas()))


async def look_up(url: str, schemas: Schemas) -> Mapping[str, int]:
    """The id of every schema, by its name (``task-event.v1``); a version's records can only be read where it has one."""
    async with _Registry(url) as registry:
        return {schema.name: await registry.id_of(schema) for schema in schemas.all}


async def register(url: str, schemas: Schemas) -> Mapping[str, int]:
    """Give every schema an id, oldest versions first, under a compatibility that is set explicitly; the ids by name.

    Doing it again changes nothing. Raise :class:`InvalidConfiguration` for a schema that the registry refuses.
    """
    async with _Registry(url) as registry:
        ids = {}
        for schema in sorted(schemas.all, key=lambda schema: (schema.subject, schema.version)):
            if schema.version == 1:
                await registry.hold_to(schema)
            ids[schema.name] = await registry.add(schema)
        return ids


class _Registry:
    """The few requests that are needed. A subject is named by its record (Confluent's RecordNameStrategy)."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._http = httpx.AsyncClient(base_url=url.rstrip("/"), timeout=_TIMEOUT_S, headers=_HEADERS)

    async def __aenter__(self) -> "_Registry":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def id_of(self, schema: Schema) -> int:
        answer = await self._ask("POST", f"/subjects/{_subject(schema)}", _body(schema))
        if answer.get("error_code") in {_NO_SUBJECT, _NO_SCHEMA}:
            raise InvalidConfiguration(
                f"the registry does not know {schema.name}", where=self._url, hint="Run `apexstream topics apply` first"
            )
        return int(self._checked(answer, schema)["id"])

    async def add(self, schema: Schema) -> int:
        answer = await self._ask("POST", f"/subjects/{_subject(schema)}/versions", _body(schema))
        return int(self._checked(answer, schema)["id"])

    async def hold_to(self, schema: Schema) -> None:
        answer = await self._ask("PUT", f"/config/{_subject(schema)}", {"compatibility": COMPATIBILITY})
        self._checked(answer, schema)

    async def _ask(self, method: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        try:
            response = await self._http.request(method, path, content=json.dumps(body))
            answer = response.json()
        except (httpx.HTTPError, ValueError) as problem:
            raise self._unavailable(str(problem) or type(problem).__name__) from None
        if not isinstance(answer, dict):
            raise self._unavailable(f"an answer that is no object: {str(answer)[:100]}")
        if response.status_code >= 500:
            raise self._unavailable(f"{response.status_code} {answer.get('message', '')}")
        return answer

    def _checked(self, answer: dict[str, Any], schema: Schema) -> dict[str, Any]:
        if "error_code" in answer:
            raise InvalidConfiguration(
                f"the registry refuses {schema.name}: {answer.get('message', answer['error_code'])}", where=self._url
            )
        return answer

    def _unavailable(self, what: str) -> Unavailable:
        return Unavailable(
            f"the schema registry does not answer: {what}",
            where=self._url,
            hint="Check that it runs and that SCHEMA_REGISTRY_URL is the base of its Confluent API",
        )


def _subject(schema: Schema) -> str:
    return f"{schema.definition['namespace']}.{schema.definition['name']}"


def _body(schema: Schema) -> Mapping[str, Any]:
    return {"schema": json.dumps(schema.definition), "schemaType": "AVRO"}
