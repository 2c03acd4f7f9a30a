"""What a service may do on the cluster follows from the catalogue, and is no more than it needs."""

from apexstream.contracts.catalogue import load_catalogue
from apexstream.contracts.grants import Grant, Resource, grants

CATALOGUE = load_catalogue()


def test_a_service_may_touch_exactly_the_topics_that_name_it():
    given = grants(CATALOGUE, "apex.")
    for topic in CATALOGUE:
        on_topic = {grant.service for grant in given if grant.name == topic.name}
        assert on_topic == {*topic.writers, *topic.readers, *topic.trimmers}


def test_only_the_archiver_deletes_records():
    given = [grant for grant in grants(CATALOGUE, "apex.") if "DELETE" in grant.operations]
    assert {(grant.service, grant.name) for grant in given} == {("archiver", "apex.chunks")}


def test_every_service_has_the_groups_of_its_own_name():
    groups = [grant for grant in grants(CATALOGUE, "team-a.") if grant.resource is Resource.GROUP]
    assert Grant("runner", Resource.GROUP, "team-a.runner", ("READ",), prefix=True) in groups
    assert all(grant.name == f"team-a.{grant.service}" for grant in groups)


def test_names_follow_the_prefix():
    renamed = [topic.renamed("team-a.") for topic in CATALOGUE]
    assert all(grant.name.startswith("team-a.") for grant in grants(renamed, "team-a."))
