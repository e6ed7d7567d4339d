"""S22: what a container may do when something in it has been taken over, as the chart and the compose file say.

No cluster acts on it here; `helm test` and a cluster with a network plugin do.
"""

import ipaddress

import pytest
import yaml

from tests.deploy.conftest import ROOT, SETS, containers, helm, of_kind, pods, template

__all__ = ["helm", "template"]
pytestmark = pytest.mark.deploy
METADATA = "169.254.169.254"
INSIDE = [METADATA, "10.1.2.3", "172.16.0.9", "192.168.1.1", "100.64.0.1", "127.0.0.1", "fd00:ec2::254", "fe80::1"]


def reaches(policies: list[dict], labels: dict, address: str, port: int) -> bool:
    """Whether any policy lets a pod with these labels out to this address and port."""
    where = ipaddress.ip_address(address)
    for spec in policies:
        selector = spec["podSelector"]
        listed = all(labels.get(rule["key"]) in rule["values"] for rule in selector.get("matchExpressions", []))
        if "Egress" not in spec["policyTypes"] or not listed or not selector["matchLabels"].items() <= labels.items():
            continue
        for rule in spec.get("egress", []):
            blocks = [peer["ipBlock"] for peer in rule.get("to", []) if "ipBlock" in peer]
            open_to_all = not rule.get("to")
            hit = any(
                where in ipaddress.ip_network(block["cidr"])
                and not any(where in ipaddress.ip_network(hole) for hole in block.get("except", []))
                for block in blocks
                if ipaddress.ip_network(block["cidr"]).version == where.version
            )
            if (open_to_all or hit) and port in [given["port"] for given in rule["ports"]]:
                return True
    return False


def parts(objects: list[dict]) -> dict[str, dict]:
    """Labels of the pods of every deployment by component."""
    found = [item["spec"]["template"]["metadata"]["labels"] for item in of_kind(objects, "Deployment")]
    return {labels["app.kubernetes.io/component"]: labels for labels in found}


def test_s22_nobody_reaches_the_metadata_service_and_only_two_the_internet(template) -> None:
    objects = template("production")
    policies, components = [item["spec"] for item in of_kind(objects, "NetworkPolicy")], parts(objects)
    assert {"api", "fetcher", "scheduler", "worker-default"} <= set(components)
    for name, labels in components.items():
        for port in (80, 443, 8443):
            assert not reaches(policies, labels, METADATA, port), (name, port)
        assert reaches(policies, labels, "1.1.1.1", 443) == (name in {"fetcher", "scheduler"}), name
    for name in ("fetcher", "scheduler"):
        assert reaches(policies, components[name], "2606:4700::1111", 443)
        for address in INSIDE:
            assert not reaches(policies, components[name], address, 443), (name, address)
    assert not reaches(policies, components["fetcher"], "1.1.1.1", 80)
    assert not reaches(policies, components["fetcher"], "1.1.1.1", 8443)


def test_s22_the_check_can_fail() -> None:
    labels = {"app": "x"}
    allowed = {"egress": [{"ports": [{"port": 443}], "to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]}
    policy = {"podSelector": {"matchLabels": labels}, "policyTypes": ["Egress"], **allowed}
    assert reaches([policy], labels, METADATA, 443) and not reaches([policy], labels, METADATA, 80)
    assert not reaches([policy], {"app": "y"}, METADATA, 443)
    policy["egress"][0]["to"][0]["ipBlock"]["except"] = ["169.254.0.0/16"]
    assert not reaches([policy], labels, METADATA, 443)


@pytest.mark.parametrize("name", SETS)
def test_s22_no_container_writes_outside_its_folders_or_is_root(template, name) -> None:
    objects = template(name)
    for where, container in containers(objects):
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] and security["runAsNonRoot"], where
        assert security["capabilities"] == {"drop": ["ALL"]} and not security["allowPrivilegeEscalation"], where
        writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert writable <= {"/data", "/tmp", "/dev/shm", "/models", "/cache"}, (where, writable)
    for where, spec in pods(objects):
        assert spec["automountServiceAccountToken"] is False and not spec.get("hostNetwork"), where


def test_s22_compose_says_the_same() -> None:
    services = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]
    for name in ("worker-cpu", "worker-gpu", "bucket"):
        assert services[name]["networks"] == ["inside"]
    for name in ("api", "scheduler", "fetcher", "worker-cpu", "worker-gpu", "bucket"):
        service = services[name]
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"] and service["user"] == "10001:10001"
