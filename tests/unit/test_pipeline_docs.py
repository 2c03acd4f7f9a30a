"""docs/pipelines.md says what there is."""

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from apexstream.core.operators import FOLDS, Combine, Operator, Test
from apexstream.core.pipelines import Definition, read_definition

TEXT = (Path(__file__).parents[2] / "docs" / "pipelines.md").read_text()


def names(union: object) -> list[str]:
    return [str(kind.__struct_config__.tag) for kind in get_args(union)]


@pytest.mark.parametrize("name", [*names(Operator), *names(Combine), *FOLDS, *get_args(Test)])
def test_every_operator_fold_and_test_is_in_the_document(name: str) -> None:
    assert f"`{name}`" in TEXT


@pytest.mark.parametrize("field", [field.name for field in msgspec.structs.fields(Definition)])
def test_every_field_of_a_definition_is_in_the_document(field: str) -> None:
    assert f"`{field}`" in TEXT


def test_the_definitions_in_the_document_are_accepted() -> None:
    found = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)

    assert found
    for definition in found:
        read_definition(definition.encode())
