"""What deploys the services names what the code names: services, settings, topics, groups, ports; and is as closed as it says."""

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from tests.support.registry import VERSION as REGISTRY_VERSION

from apexstream.cli.serve import SERVICES
from apexstream.contracts.catalogue import load_catalogue
from apexstream.runtime.settings import Settings, describe_settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
OWN_IMAGE = "${APEX_IMAGE:-apexstream:latest}"
OWN = {name: service for name, service in COMPOSE["services"].items() if service.get("image") == OWN_IMAGE}
VARIABLES = {setting.name for setting in describe_settings(Settings())}
METRICS_PORT = 9464


def resources(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Kubernetes resources of a folder, each with where it is."""
    for path in sorted(folder.rglob("*.yaml")):
        if path.name == "kustomization.yaml":
            continue
        for resource in yaml.safe_load_all(path.read_text("utf-8")):
            yield f"{path.relative_to(KUBERNETES)}: {resource['kind']} {resource['metadata']['name']}", resource


def kustomization(folder: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((KUBERNETES / folder / "kustomization.yaml").read_text("utf-8"))
    return loaded


WORKLOADS = {
    where: resource
    for where, resource in resources(KUBERNETES)
    if resource["kind"] in {"Deployment", "StatefulSet", "Job"}
}
PODS = {where: resource["spec"]["template"]["spec"] for where, resource in WORKLOADS.items()}
OWN_PODS = {where: pod for where, pod in PODS.items() if pod["containers"][0]["image"] == "apexstream"}
KNOWN_TO_VALIDATOR = {
    where: resource
    for where, resource in resources(KUBERNETES)
    if not re.search(r"strimzi|keda|monitoring\.coreos", resource["apiVersion"])
}


def test_compose_runs_every_service():
    assert {name for name, service in OWN.items() if service["command"][0] == "serve"} == set(SERVICES)
    assert all(service["command"] == ["serve", name] for name, service in OWN.items() if name != "topics")


def test_kubernetes_runs_every_service():
    served = {
        pod["containers"][0]["args"][1] for pod in OWN_PODS.values() if pod["containers"][0]["args"][0] == "serve"
    }
    assert served == set(SERVICES)


@pytest.mark.parametrize("name", OWN)
def test_compose_sets_only_settings_that_exist(name: str):
    assert set(OWN[name]["environment"]) <= VARIABLES


def test_the_overlay_with_logins_sets_only_settings_that_exist():
    overlay = yaml.safe_load((DEPLOY / "compose.sasl.yaml").read_text("utf-8"))["services"]
    assert set(overlay) - {"kafka"} == set(OWN)
    for name in OWN:
        assert set(overlay[name]["environment"]) <= VARIABLES
        assert set(overlay[name]["secrets"]) == {Path(overlay[name]["environment"]["KAFKA_SASL_PASSWORD_FILE"]).name}


def test_kubernetes_sets_only_settings_that_exist():
    literals = [
        literal.partition("=")[0]
        for folder in ("base", "overlays/prod")
        for generator in kustomization(folder)["configMapGenerator"]
        for literal in generator["literals"]
    ]
    own = [entry["name"] for pod in OWN_PODS.values() for entry in pod["containers"][0].get("env", ())]
    patched = re.findall(
        r"value: \{name: ([A-Z_]+), value", (KUBERNETES / "overlays/prod/kustomization.yaml").read_text()
    )
    assert {*literals, *own, *patched} <= VARIABLES


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_containers_of_compose_have_no_privileges(name: str):
    service = COMPOSE["services"][name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("read_only", name in {"kafka", "grafana", "registry"})
    assert all(published.startswith("${") and ":-127.0.0.1:" in published for published in service.get("ports", ()))


@pytest.mark.parametrize("where", PODS)
def test_pods_run_under_the_restricted_standard(where: str):
    pod = PODS[where]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]


def test_services_have_longer_to_stop_than_they_take():
    drain_s = Settings.model_fields["drain_timeout_s"].default
    seconds = int(COMPOSE["x-service"]["stop_grace_period"].removesuffix("s"))
    assert seconds > drain_s
    for where, pod in OWN_PODS.items():
        if "Job" not in where:
            assert pod["terminationGracePeriodSeconds"] > drain_s


def test_metrics_are_scraped_where_they_are_served():
    (job,) = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text("utf-8"))["scrape_configs"]
    (target,) = job["dns_sd_configs"]
    assert set(target["names"]) == set(SERVICES)
    assert target["port"] == METRICS_PORT
    assert COMPOSE["x-service"]["environment"]["APEX_METRICS_PORT"] == str(METRICS_PORT)
    assert f"APEX_METRICS_PORT={METRICS_PORT}" in kustomization("base")["configMapGenerator"][0]["literals"]
    for where, pod in OWN_PODS.items():
        if "Job" not in where:
            ports = {port["name"]: port["containerPort"] for port in pod["containers"][0]["ports"]}
            assert ports["metrics"] == METRICS_PORT


def test_gateways_of_a_cluster_share_the_keys_that_the_runbook_asks_for():
    (patch,) = (
        p["patch"] for p in kustomization("overlays/prod")["patches"] if p["target"]["name"].endswith("-gateway")
    )
    added = [entry["value"] for entry in yaml.safe_load(patch)]
    files = {value["name"]: Path(value["value"]) for value in added if value["name"].startswith("APEX_")}
    (mount,) = (value for value in added if value.get("mountPath") == "/run/secrets/apexstream")
    (volume,) = (value for value in added if value["name"] == mount["name"] and "secret" in value)
    runbook = (DEPLOY / "README.md").read_text("utf-8")
    assert files.keys() == {"APEX_AUTH_KEYS", "APEX_CURSOR_KEY_FILE"}
    assert {str(file.parent) for file in files.values()} == {mount["mountPath"]}
    assert f"`{volume['secret']['secretName']}` with " + " and ".join(f"`{f.name}`" for f in files.values()) in runbook


def test_the_registry_is_the_one_that_is_tested():
    assert COMPOSE["services"]["registry"]["image"].endswith(f"-kafkasql:{REGISTRY_VERSION}}}")


def test_runners_scale_on_the_group_and_topic_that_they_read():
    (scaled,) = (r for _, r in resources(KUBERNETES / "overlays/prod") if r["kind"] == "ScaledObject")
    trigger = scaled["spec"]["triggers"][0]["metadata"]
    (assignments,) = (topic for topic in load_catalogue() if topic.name == trigger["topic"])
    assert trigger["consumerGroup"] == "apex.runners"
    assert 'settings.topic_prefix + "runners"' in (ROOT / "services/apexstream/runner/build.py").read_text("utf-8")
    assert scaled["spec"]["maxReplicaCount"] == assignments.partitions
    assert int(trigger["lagThreshold"]) == Settings.model_fields["runner_capacity"].default


def generated() -> dict[str, tuple[Path, str]]:
    spec = importlib.util.spec_from_file_location("generate", KUBERNETES / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    return {path.name: (path, content) for path, content in generate.files().items()}


def test_generated_files_are_those_that_the_code_gives():
    for name, (path, content) in generated().items():
        assert path.read_text("utf-8") == content, f"run `python deploy/kubernetes/generate.py`: {name} is old"


def test_other_tiers_get_their_topics_and_rights(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("APEX_TIERS", "urgent,normal")
    files = generated()

    topics = {topic["metadata"]["name"] for topic in yaml.safe_load_all(files["kafka-topics.yaml"][1])}
    assert {name for name in topics if name.startswith("apex.tasks")} == {"apex.tasks.urgent", "apex.tasks.normal"}
    for user in yaml.safe_load_all(files["kafka-users.yaml"][1]):
        rules = user["spec"]["authorization"]["acls"]
        rights = {rule["resource"]["name"]: rule["operations"] for rule in rules}
        expected = {"gateway": ["Read", "Write", "Describe"], "dispatcher": ["Read", "Describe"]}
        assert rights.get("apex.tasks.urgent") == expected.get(user["metadata"]["name"])


@pytest.mark.parametrize("where", KNOWN_TO_VALIDATOR)
def test_resources_are_valid_and_hold_nothing_unknown(where: str):
    kubernetes_validate.validate(KNOWN_TO_VALIDATOR[where], "1.37", strict=True)


@pytest.mark.skipif(shutil.which("kustomize") is None, reason="there is no kustomize on the PATH")
@pytest.mark.parametrize("overlay", ["dev", "prod"])
def test_overlays_build_to_valid_resources(overlay: str):
    built = subprocess.run(
        ["kustomize", "build", KUBERNETES / "overlays" / overlay],
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    )
    found = list(yaml.safe_load_all(built.stdout))
    assert {r["metadata"].get("namespace", "apexstream") for r in found} == {"apexstream"}
    for resource in found:
        if not re.search(r"strimzi|keda|monitoring\.coreos", resource["apiVersion"]):
            kubernetes_validate.validate(resource, "1.37", strict=True)


def test_a_misspelt_field_is_found():
    resource = next(r for r in KNOWN_TO_VALIDATOR.values() if r["kind"] == "Deployment")
    broken = {**resource, "spec": {**resource["spec"], "replica": 3}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.37", strict=True)
